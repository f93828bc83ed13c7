"""How strongly to steer: what a caller chooses, and what an artifact makes of it.

``Steering.resolve`` is the one function that turns a ``Strength`` into vectors, alpha, gate and digest. Everything
that steers uses its result, so that what is served is what was evaluated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from sarsteer.steering.gate.gate import Gate

GateChoice = bool | Gate | Literal["hard", "logistic"] | None
"""Whether requests are gated: False for never, True for the artifact's gate, a mode for its gate in that mode, a gate
for that gate, None for the artifact's default."""


@dataclass(frozen=True)
class Strength:
    """What a caller may choose when an artifact is used. None stands for the artifact's default.

    Attributes:
        alpha: steering strength α.
        k: number of principal components of the safe subspace to ablate; 0 for none.
        lambda_: ablation coefficient λ.
        layer_weights: ``[L]``, times which each decoder layer is steered.
        gate: see ``GateChoice``.

    """

    alpha: float | None = None
    k: int | None = None
    lambda_: float | None = None
    layer_weights: tuple[float, ...] | None = None
    gate: GateChoice = None


@dataclass(frozen=True, eq=False)
class ResolvedStrength:
    """A strength resolved against an artifact: exactly what is added to a model's activations.

    Attributes:
        vectors: ``[L, D]`` float32, layer weights included, α not.
        alpha, k, lambda_, layer_weights: the values in use.
        gate: decides which requests are steered; None steers all.
        digest: SHA-256 of vectors and gate. α is not part of it: it can change in place.

    """

    vectors: torch.Tensor = field(repr=False)
    alpha: float
    k: int
    lambda_: float
    layer_weights: tuple[float, ...]
    gate: Gate | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the vectors and the gate, to compare processes and runs."""
        return digest_of(self.vectors, self.gate)

    def with_vectors(self, vectors: torch.Tensor) -> ResolvedStrength:
        """The same strength with other vectors ``[L, D]``: a baseline or a control."""
        return replace(self, vectors=vectors)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The values in use, as JSON, for logs and reports."""
        found: dict[str, Any] = {"alpha": self.alpha, "k": self.k, "lambda": self.lambda_}
        if any(weight != 1 for weight in self.layer_weights):
            found["layer_weights"] = list(self.layer_weights)
        if self.gate is not None:
            names = ("layer", "mode", "threshold", "temperature", "limit")
            found["gate"] = {**{name: getattr(self.gate, name) for name in names}, "digest": self.gate.digest}
        return found


def digest_of(vectors: torch.Tensor, gate: Gate | None) -> str:
    """SHA-256 of ``[L, D]`` in float32, and of the gate beside them."""
    digest = hashlib.sha256(vectors.detach().float().cpu().contiguous().numpy().tobytes())
    if gate is not None:
        digest.update(gate.digest.encode())
    return digest.hexdigest()
