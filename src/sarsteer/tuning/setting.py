"""One configuration of the defense: everything that is chosen when a steering is used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate import Gate


@dataclass(frozen=True)
class Setting:
    """Strengths, and where they apply.

    Attributes:
        alpha: steering strength.
        k: safe components ablated.
        lambda_: ablation coefficient.
        layer_weights: one a decoder layer; the paper's are all 1. With a gate, 0 up to its layer.
        gate_fpr: the gate's target false-positive rate; None for no gate. A rate and no threshold: it means the same
            for a gate that was fitted on other pairs.

    """

    alpha: float
    k: int
    lambda_: float
    layer_weights: tuple[float, ...]
    gate_fpr: float | None = None

    @classmethod
    def of(
        cls, steering: Steering, alpha: float, k: int, lambda_: float = 1.0, gate_fpr: float | None = None
    ) -> Setting:
        """All layers alike, or all above the gate; k within the steering's rank."""
        weights = above_gate((1.0,) * len(steering.refusal), steering.gate if gate_fpr is not None else None)
        return cls(alpha, min(k, steering.max_k), lambda_, weights, gate_fpr)

    def vectors(self, steering: Steering) -> torch.Tensor:
        """``[L, D]``, without α."""
        return steering.vectors(self.k, self.lambda_, self.layer_weights)

    def gate(self, steering: Steering) -> Gate | None:
        """The steering's gate at this setting's rate; None where it has none."""
        if self.gate_fpr is None:
            return None
        gate = steering.choose_gate(True)
        assert gate is not None
        return gate.with_target_fpr(self.gate_fpr)

    def defaults_of(self, steering: Steering) -> Steering:
        """``steering`` with this setting as its own."""
        gate = self.gate(steering)
        return (steering if gate is None else steering.with_gate(gate)).with_defaults(
            alpha=self.alpha, k=self.k, lambda_=self.lambda_, layer_weights=self.layer_weights, gate=gate is not None
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as files keep them."""
        return {**asdict(self), "layer_weights": list(self.layer_weights)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Setting:
        """What ``to_json`` made."""
        return cls(**{**data, "layer_weights": tuple(data["layer_weights"])})

    def __str__(self) -> str:
        gate = "" if self.gate_fpr is None else f", gate at {100 * self.gate_fpr:g} %"
        return f"α {self.alpha:g}, k {self.k}, λ {self.lambda_:g}, {describe_layers(self.layer_weights)}{gate}"


def above_gate(weights: tuple[float, ...], gate: Gate | None) -> tuple[float, ...]:
    """``weights`` with 0 up to the gate's layer, where nothing is steered; all layers above it where none is left."""
    if gate is None:
        return weights
    above = tuple(weight if layer > gate.layer else 0.0 for layer, weight in enumerate(weights))
    return above if any(above) else tuple(float(layer > gate.layer) for layer in range(len(weights)))


def describe_layers(weights: tuple[float, ...]) -> str:
    """``all layers``, ``layers 2-7``, or the weights themselves."""
    if all(weight == 1 for weight in weights):
        return "all layers"
    steered = [layer for layer, weight in enumerate(weights) if weight]
    contiguous = steered and steered[-1] - steered[0] + 1 == len(steered)
    if contiguous and all(weights[layer] == 1 for layer in steered):
        return f"layer {steered[0]}" if len(steered) == 1 else f"layers {steered[0]}-{steered[-1]}"
    return "layers × " + " ".join(f"{weight:.2g}" for weight in weights)
