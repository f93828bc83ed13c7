"""The search space: push, ablation, layers and gate.

The *push* is searched instead of α: the mean over all layers of α w_l ‖v_l‖ / ‖h_l‖. More ablation or fewer steered
layers make the vectors shorter, so α would need another range each time; a push has the same meaning for all of them,
and in every model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from sarsteer.errors import TuningError
from sarsteer.steering.artifact import DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA, Steering
from sarsteer.steering.push import push_at_one
from sarsteer.steering.strength import Strength
from sarsteer.tuning.config import SpaceConfig
from sarsteer.tuning.configuration import Configuration, GateReference, Gates, above_gate

if TYPE_CHECKING:
    from optuna.trial import Trial

START_FPR = 0.1
"""Target false-positive rate of the gated starting points."""


@dataclass(frozen=True, eq=False)
class Space:
    """The search space of one steering.

    Attributes:
        steering: calibrated on the calibration part of the pairs.
        config: which layers are searched, and the ranges.
        gates: the gates to search, by layer.

    """

    steering: Steering
    config: SpaceConfig = field(default_factory=SpaceConfig)
    gates: Gates = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """The number of decoder layers."""
        return len(self.steering.refusal)

    def fixed(self, number: int) -> dict[str, Any]:
        """Parameters that the sampler does not choose in trial ``number``: every other trial has a gate.

        Gated configurations need larger strengths, and a sampler that saw a few bad ones would not try more.
        """
        return {"gate": number % 2 == 1} if self.gates else {}

    def draw(self, trial: Trial) -> Configuration:
        """The configuration of an Optuna trial."""
        push = trial.suggest_float("push", *self.config.push, log=True)
        # k + 1: a logarithmic range excludes zero, and the first components matter most
        k = trial.suggest_int("components", 1, self.steering.max_k + 1, log=True) - 1
        lambda_ = round(trial.suggest_float("lambda", *self.config.lambda_), 2) if k else 1.0
        weights, gate = self._draw_weights(trial), None
        if self.gates and trial.suggest_categorical("gate", [False, True]):
            rate = float(f"{trial.suggest_float('gate_fpr', *self.config.gate_fpr, log=True):.2g}")
            layer = sorted(self.gates)[trial.suggest_int("gate_place", 0, len(self.gates) - 1)]
            gate, weights = GateReference(layer, rate), above_gate(weights, layer)
        push_at_one = self.push_at_one(k, lambda_, weights)
        if push_at_one <= 0:
            raise TuningError(
                "every refusal vector is zero: the refusal prompt changes nothing in this model; use another prompt"
            )
        return Configuration(Strength(float(f"{push / push_at_one:.3g}"), k, lambda_, weights), gate)

    def params(self, configuration: Configuration) -> dict[str, Any]:
        """The parameters for which ``draw`` returns ``configuration``, whose layers must be uniform above its gate."""
        strength, gate = self.steering.resolve(configuration.strength), configuration.gate
        push = strength.alpha * self.push_at_one(strength.k, strength.lambda_, strength.layer_weights)
        lowest, highest = self.config.push
        params: dict[str, Any] = {"push": min(max(push, lowest), highest), "components": strength.k + 1}
        if strength.k:
            params["lambda"] = strength.lambda_
        if self.config.layers == "range":
            params |= {"one_end": 0, "other_end": self.depth - 1}
        elif self.config.layers == "weights":
            params |= {f"weight_{knot}": 1.0 for knot in range(self._knots)}
        if self.gates:
            params["gate"] = gate is not None and gate.target_fpr is not None
            if params["gate"] and gate is not None:
                params |= {"gate_fpr": gate.target_fpr, "gate_place": sorted(self.gates).index(gate.layer)}
        return params

    def starting_points(self) -> list[Configuration]:
        """The first trials: the closed form, the paper's defaults, and the closed form's push, once and twice, gated.

        The gated ones ablate nothing and steer every layer above the best gate.
        """
        suggestion = self.steering.suggest()
        points = [
            Configuration.uniform(self.steering, suggestion.alpha, suggestion.k, suggestion.lambda_),
            Configuration.uniform(self.steering, DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA),
        ]
        if self.gates:
            closed_form = self.steering.resolve(points[0].strength)
            push = closed_form.alpha * self.push_at_one(closed_form.k, 1.0, closed_form.layer_weights)
            best = max(self.gates.values(), key=lambda gate: float(gate.metadata["auroc"])).layer
            points += [self.gated_start(times * push, best, START_FPR) for times in (1, 2)]
        return points

    def gated_start(self, push: float, gate_layer: int, gate_fpr: float) -> Configuration:
        """Nothing ablated, every layer above this gate steered alike, with this push."""
        weights = above_gate((1.0,) * self.depth, gate_layer)
        push_at_one = self.push_at_one(0, 1.0, weights)
        alpha = float(f"{push / push_at_one:.3g}") if push_at_one > 0 else 0.0
        return Configuration(Strength(alpha, 0, 1.0, weights), GateReference(gate_layer, gate_fpr))

    def push_at_one(self, k: int, lambda_: float, weights: tuple[float, ...]) -> float:
        """Mean over all layers of w_l ‖v_l‖ / ‖h_l‖: the push of α = 1."""
        return push_at_one(self.steering, Strength(k=k, lambda_=lambda_, layer_weights=weights))

    def _draw_weights(self, trial: Trial) -> tuple[float, ...]:
        if self.config.layers == "all":
            return (1.0,) * self.depth
        if self.config.layers == "range":
            ends = [trial.suggest_int(name, 0, self.depth - 1) for name in ("one_end", "other_end")]
            return tuple(float(min(ends) <= layer <= max(ends)) for layer in range(self.depth))
        knots = torch.tensor([trial.suggest_float(f"weight_{knot}", 0.0, 1.0) for knot in range(self._knots)])
        if float(knots.max()) < 0.01:  # no layer would be steered, whatever α
            knots = torch.ones_like(knots)
        weights = torch.nn.functional.interpolate(
            (knots / knots.max())[None, None], size=self.depth, mode="linear", align_corners=True
        )
        return tuple(round(float(weight), 3) for weight in weights[0, 0])

    @property
    def _knots(self) -> int:
        return min(self.config.weight_knots, self.depth)
