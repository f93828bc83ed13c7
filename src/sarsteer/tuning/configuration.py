"""One configuration of the defense: a strength, and the gate that decides which requests get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sarsteer.errors import TuningError
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.conformal import lowest_rate
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.strength import ResolvedStrength, Strength

Gates = Mapping[int, Gate]
"""Gates by layer."""


@dataclass(frozen=True)
class GateReference:
    """A gate by its layer and rate. Unlike a ``Gate`` it stays valid when the gate is fitted again on other pairs.

    Attributes:
        layer: the gate's layer.
        target_fpr: target false-positive rate; None for the gate's own threshold.

    """

    layer: int
    target_fpr: float | None = None

    def find(self, gates: Gates) -> Gate:
        """The gate at this layer, with the threshold of this rate, or of the lowest that its clips can state."""
        if self.layer not in gates:
            raise TuningError(f"there is no gate at layer {self.layer}; calibrate on other pairs")
        gate = gates[self.layer]
        if self.target_fpr is None:
            return gate
        return gate.with_target_fpr(max(self.target_fpr, lowest_rate(len(set(gate.safe_requests)))))

    def __str__(self) -> str:
        rate = "" if self.target_fpr is None else f" for {100 * self.target_fpr:g} %"
        return f"gate at layer {self.layer}{rate}"


@dataclass(frozen=True)
class Configuration:
    """A strength with every value set, and the gate.

    Attributes:
        strength: α, k, λ and layer weights; its own gate is not used.
        gate: None for no gate.

    """

    strength: Strength
    gate: GateReference | None = None

    @classmethod
    def of(cls, resolved: ResolvedStrength) -> Configuration:
        """The configuration that is in use."""
        strength = Strength(resolved.alpha, resolved.k, resolved.lambda_, resolved.layer_weights)
        return cls(strength, None if resolved.gate is None else GateReference(resolved.gate.layer))

    @classmethod
    def uniform(
        cls, steering: Steering, alpha: float, k: int, lambda_: float = 1.0, gate_fpr: float | None = None
    ) -> Configuration:
        """All layers steered alike or, with a rate, all above the steering's gate; k is limited to its rank."""
        gate = steering.choose_gate(gate_fpr is not None)
        weights = above_gate((1.0,) * len(steering.refusal), None if gate is None else gate.layer)
        reference = None if gate is None else GateReference(gate.layer, gate_fpr)
        return cls(Strength(alpha, min(k, steering.max_k), lambda_, weights), reference)

    def with_strength(self, **changes: Any) -> Configuration:
        """The same configuration with other values of its strength."""
        return replace(self, strength=replace(self.strength, **changes))

    def resolve(self, steering: Steering, gates: Gates) -> ResolvedStrength:
        """What is added to a model's activations."""
        return steering.resolve(replace(self.strength, gate=False if self.gate is None else self.gate.find(gates)))

    def as_defaults(self, steering: Steering, gates: Gates | None = None) -> Steering:
        """``steering`` with this configuration as its defaults; the gate is one of ``gates``, or else its own."""
        gate = None if self.gate is None else self.gate.find(own_gate(steering) if gates is None else gates)
        return (steering if gate is None else steering.with_gate(gate)).with_defaults(
            alpha=self.strength.alpha,
            k=self.strength.k,
            lambda_=self.strength.lambda_,
            layer_weights=self.strength.layer_weights,
            gate=gate is not None,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, for study and steering files."""
        return {
            "alpha": self.strength.alpha,
            "k": self.strength.k,
            "lambda_": self.strength.lambda_,
            "layer_weights": list(self.strength.layer_weights or ()),
            "gate_fpr": None if self.gate is None else self.gate.target_fpr,
            "gate_layer": None if self.gate is None else self.gate.layer,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Configuration:
        """The inverse of ``to_json``."""
        strength = Strength(data["alpha"], data["k"], data["lambda_"], tuple(data["layer_weights"]))
        layer = data["gate_layer"]
        return cls(strength, None if layer is None else GateReference(layer, data["gate_fpr"]))

    def __str__(self) -> str:
        return f"{self.strength}" if self.gate is None else f"{self.strength}, {self.gate}"


def own_gate(steering: Steering) -> Gates:
    """The gate in the artifact, by its layer; empty if there is none."""
    return {} if steering.gate is None else {steering.gate.layer: steering.gate}


def above_gate(weights: tuple[float, ...], gate_layer: int | None) -> tuple[float, ...]:
    """``weights`` with 0 up to the gate's layer, which is not steered; 1 above it if no other weight is left."""
    if gate_layer is None:
        return weights
    above = tuple(weight if layer > gate_layer else 0.0 for layer, weight in enumerate(weights))
    return above if any(above) else tuple(float(layer > gate_layer) for layer in range(len(weights)))
