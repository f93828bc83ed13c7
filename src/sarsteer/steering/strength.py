"""How strongly to steer: what a caller chooses, and the vectors, alpha and gate that result.

``Steering.resolve`` is the only function that turns a ``Strength`` into a ``ResolvedStrength``. Everything that steers
uses its result, so that what is served is what was evaluated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate

GateChoice = bool | Gate | Literal["hard", "logistic", "shadow"] | None
"""Which requests are steered: False for all, True for those that open the artifact's gate, ``"hard"`` or
``"logistic"`` for the artifact's gate in that mode, ``"shadow"`` for none while the gate decides, a ``Gate`` for that
gate, None for the artifact's default."""


@dataclass(frozen=True)
class Strength:
    """What a caller chooses when an artifact is used. None selects the artifact's default.

    Attributes:
        alpha: steering strength α.
        k: number of ablated principal components of the safe subspace; 0 for none.
        lambda_: ablation coefficient λ.
        layer_weights: ``[L]``, the factor of each decoder layer's vector; 0 leaves a layer unsteered.
        gate: see ``GateChoice``.

    """

    alpha: float | None = None
    k: int | None = None
    lambda_: float | None = None
    layer_weights: tuple[float, ...] | None = None
    gate: GateChoice = None

    def __str__(self) -> str:
        values = (("α", self.alpha), ("k", self.k), ("λ", self.lambda_))
        words = [f"{name} {value:g}" for name, value in values if value is not None]
        if self.layer_weights is not None:
            words.append(describe_layers(self.layer_weights))
        return ", ".join(words) or "default strength"


@dataclass(frozen=True, eq=False)
class ResolvedStrength:
    """Exactly what is added to a model's activations. Every instance is valid: its constructor checks all values.

    Attributes:
        vectors: ``[L, D]``, layer weights included, α not; stored as float32 on the CPU.
        alpha: steering strength α.
        gate: decides which requests are steered; None steers all.
        k: number of ablated components in ``vectors``.
        lambda_: ablation coefficient in ``vectors``.
        layer_weights: ``[L]``, the weights in ``vectors``; empty for 1 everywhere.

    Raises:
        SteeringError: a value is not finite, or the gate does not fit the vectors.

    """

    vectors: torch.Tensor = field(repr=False)
    alpha: float
    gate: Gate | None = field(default=None, repr=False)
    k: int = 0
    lambda_: float = 1.0
    layer_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        vectors = self.vectors.detach().float().cpu()
        if vectors.ndim != 2:
            raise SteeringError(f"steering vectors must be [L, D], one per decoder layer, not {tuple(vectors.shape)}")
        if not torch.isfinite(vectors).all():
            raise SteeringError("the steering vectors contain NaN or infinite values; run calibrate again")
        if isinstance(self.alpha, bool) or not math.isfinite(self.alpha):
            raise SteeringError(f"alpha must be a finite number, not {self.alpha}")
        if self.gate is not None:
            _check_gate(self.gate, *vectors.shape)
        if not torch.isfinite(float(self.alpha) * vectors).all():
            raise SteeringError(f"alpha = {self.alpha:g} times the vectors overflows float32; use a smaller alpha")
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def digest(self) -> str:
        """SHA-256 of vectors and gate, to compare processes and runs. α is excluded: it can change in place."""
        return digest_of(self.vectors, self.gate)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The values in use as JSON, for logs and reports."""
        values: dict[str, Any] = {"alpha": self.alpha, "k": self.k, "lambda": self.lambda_}
        if any(weight != 1 for weight in self.layer_weights):
            values["layer_weights"] = list(self.layer_weights)
        if self.gate is not None:
            names = ("layer", "mode", "threshold", "temperature", "limit")
            values["gate"] = {**{name: getattr(self.gate, name) for name in names}, "digest": self.gate.digest}
            if self.gate.earlier:
                values["gate"]["earlier_layers"] = list(self.gate.earlier)
        return values

    @property
    def deltas(self) -> torch.Tensor:
        """``[L, D]``: what one steered position receives, α included.

        Zero in the layers up to the gate's, and everywhere in shadow mode.
        """
        deltas = self.alpha * self.vectors
        return deltas if self.gate is None else self.gate.keep_steered(deltas)

    @property
    def shadow(self) -> bool:
        """Whether the gate decides and nothing is steered."""
        return self.gate is not None and not self.gate.defends

    @property
    def weakness(self) -> str | None:
        """Why this strength does not defend a model, in words; None if nothing is obviously wrong."""
        if self.shadow:
            return "shadow mode: the gate decides, and no request is steered"
        if self.alpha < 0:
            return f"alpha is {self.alpha:g}, and a negative alpha steers away from refusal"
        if self.alpha == 0:
            return "alpha is 0, so nothing is added"
        if self.lambda_ < 0 and self.k > 0:
            return f"lambda is {self.lambda_:g}, and a negative lambda adds what safe requests share"
        if not self.deltas.any():
            return "all vectors that would be added are zero; check k, lambda and the layer weights"
        return None

    def with_vectors(self, vectors: torch.Tensor) -> ResolvedStrength:
        """The same strength with other vectors ``[L, D]``: a baseline or a control."""
        return replace(self, vectors=vectors)

    def with_alpha(self, alpha: float) -> ResolvedStrength:
        """The same vectors and gate at another α."""
        return replace(self, alpha=alpha)

    def with_gate(self, gate: Gate | None) -> ResolvedStrength:
        """The same vectors and α with another gate; None steers every request."""
        return replace(self, gate=gate)


def digest_of(vectors: torch.Tensor, gate: Gate | None) -> str:
    """SHA-256 of vectors ``[L, D]`` in float32 and of the gate."""
    digest = hashlib.sha256(vectors.detach().float().cpu().contiguous().numpy().tobytes())
    if gate is not None:
        digest.update(gate.digest.encode())
    return digest.hexdigest()


def describe_layers(weights: Sequence[float]) -> str:
    """``all layers``, ``layers 2-7``, or the weights themselves."""
    if all(weight == 1 for weight in weights):
        return "all layers"
    steered = [layer for layer, weight in enumerate(weights) if weight]
    contiguous = steered and steered[-1] - steered[0] + 1 == len(steered)
    if contiguous and all(weights[layer] == 1 for layer in steered):
        return f"layer {steered[0]}" if len(steered) == 1 else f"layers {steered[0]}-{steered[-1]}"
    return "layers × " + " ".join(f"{weight:.2g}" for weight in weights)


def _check_gate(gate: Gate, layers: int, width: int) -> None:
    if gate.layer >= layers - 1:
        raise SteeringError(
            f"a gate at layer {gate.layer} of {layers} leaves no layer above it to steer; use one before {layers - 1}"
        )
    if len(gate.weight) != width:
        raise SteeringError(f"the gate has width {len(gate.weight)}, the model {width}; calibrate this model")
