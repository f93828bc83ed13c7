"""One configuration of the defense: everything that is chosen when a steering is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sarsteer.errors import TuningError
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.gate import Gate

Gates = Mapping[int, Gate]
"""Gates by their layer."""


@dataclass(frozen=True)
class Setting:
    """Strengths, and where they apply.

    Attributes:
        alpha: steering strength.
        k: safe components ablated.
        lambda_: ablation coefficient.
        layer_weights: one a decoder layer; the paper's are all 1. With a gate, 0 up to its layer.
        gate_fpr: the gate's target false-positive rate; None for the gate's own threshold. A rate and no threshold: it
            means the same for a gate that was fitted on other pairs.
        gate_layer: the layer of that gate; None for no gate.

    """

    alpha: float
    k: int
    lambda_: float
    layer_weights: tuple[float, ...]
    gate_fpr: float | None = None
    gate_layer: int | None = None

    @classmethod
    def of(
        cls, steering: Steering, alpha: float, k: int, lambda_: float = 1.0, gate_fpr: float | None = None
    ) -> Setting:
        """All layers alike, or all above the steering's own gate; k within its rank."""
        gate = steering.choose_gate(gate_fpr is not None)
        weights = above_gate((1.0,) * len(steering.refusal), gate)
        return cls(alpha, min(k, steering.max_k), lambda_, weights, gate_fpr, gate.layer if gate else None)

    def vectors(self, steering: Steering) -> torch.Tensor:
        """``[L, D]``, without α."""
        return steering.vectors(self.k, self.lambda_, self.layer_weights)

    def gate(self, gates: Gates) -> Gate | None:
        """The gate of its layer, at its rate, or as it is where no rate is asked for; None where it has none."""
        if self.gate_layer is None:
            return None
        if self.gate_layer not in gates:
            raise TuningError(f"there is no gate at layer {self.gate_layer}; calibrate on other pairs")
        gate = gates[self.gate_layer]
        return gate if self.gate_fpr is None else gate.with_target_fpr(self.gate_fpr)

    def defaults_of(self, steering: Steering, gates: Gates | None = None) -> Steering:
        """``steering`` with this setting as its own; with a gate of ``gates``, else with the one it has."""
        gate = self.gate(own_gate(steering) if gates is None else gates)
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
        gate = "" if self.gate_layer is None else f", gate at layer {self.gate_layer}"
        gate += "" if self.gate_fpr is None else f" for {100 * self.gate_fpr:g} %"
        return f"α {self.alpha:g}, k {self.k}, λ {self.lambda_:g}, {describe_layers(self.layer_weights)}{gate}"


def own_gate(steering: Steering) -> Gates:
    """The gate that calibration gave it, if any, by its layer."""
    return {} if steering.gate is None else {steering.gate.layer: steering.gate}


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
