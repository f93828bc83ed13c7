"""What is searched: the push, the ablation, the layers, and the gate.

The push is drawn in place of α: the mean over all layers of α w_l ‖v_l‖ / ‖h_l‖. Ablating more, or steering fewer
layers, makes vectors shorter and would otherwise ask for another range of α each time; a push means the same
everywhere, in every model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from sarsteer.errors import TuningError
from sarsteer.steering.artifact import Steering
from sarsteer.tuning.setting import Gates, Setting, above_gate

if TYPE_CHECKING:
    from optuna.trial import Trial

Layers = Literal["all", "range", "weights"]
LAYERS: tuple[Layers, ...] = ("all", "range", "weights")
PUSH = (0.01, 0.4)
"""Share of the activations' norm. The paper's settings are a few percent; near the upper end text breaks."""
LAMBDA = (0.25, 1.5)
GATE_FPR = (0.01, 0.5)
"""Share of held-out safe clips that may open the gate."""
KNOTS = 8
"""Weights that are drawn for the layers of a deep model; those between are interpolated, or 32 layers would be 32
dimensions that no few hundred trials can search."""


@dataclass(frozen=True, eq=False)
class Space:
    """The search space of one steering.

    Attributes:
        steering: from the calibrating pairs.
        layers: ``"all"`` alike as in the paper, a contiguous ``"range"``, or ``"weights"``, one strength a layer.
        gates: gates to try, by their layer.

    """

    steering: Steering
    layers: Layers = "range"
    gates: Gates = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layers not in LAYERS:
            raise TuningError(f"unknown search of layers {self.layers!r}; use one of {', '.join(LAYERS)}")

    @property
    def depth(self) -> int:
        """The number of decoder layers."""
        return len(self.steering.refusal)

    def fixed(self, number: int) -> dict[str, Any]:
        """What is not left to the sampler in its trial of this number: every other one has a gate.

        Gated settings want other strengths. A sampler that has seen a few bad ones would try no more of them.
        """
        return {"gate": number % 2 == 1} if self.gates else {}

    def draw(self, trial: Trial) -> Setting:
        """The setting of an Optuna trial."""
        push = trial.suggest_float("push", *PUSH, log=True)
        # one more than k: a logarithm takes no zero, and the first few components matter most
        k = trial.suggest_int("components", 1, self.steering.max_k + 1, log=True) - 1
        lambda_ = round(trial.suggest_float("lambda", *LAMBDA), 2) if k else 1.0
        weights, rate = self._draw_weights(trial), None
        layer = None
        if self.gates and trial.suggest_categorical("gate", [False, True]):
            rate = float(f"{trial.suggest_float('gate_fpr', *GATE_FPR, log=True):.2g}")
            layer = sorted(self.gates)[trial.suggest_int("gate_place", 0, len(self.gates) - 1)]
            weights = above_gate(weights, self.gates[layer])
        one = self.push_at_one(k, lambda_, weights)
        if one <= 0:
            raise TuningError("every refusal vector is zero: the refusal prompt changes nothing in this model")
        return Setting(float(f"{push / one:.3g}"), k, lambda_, weights, rate, layer)

    def params(self, setting: Setting) -> dict[str, Any]:
        """The parameters at which ``draw`` gives this setting, for one that steers all layers alike, above its gate."""
        push = setting.alpha * self.push_at_one(setting.k, setting.lambda_, setting.layer_weights)
        params: dict[str, Any] = {"push": min(max(push, PUSH[0]), PUSH[1]), "components": setting.k + 1}
        if setting.k:
            params["lambda"] = setting.lambda_
        if self.layers == "range":
            params |= {"one_end": 0, "other_end": self.depth - 1}
        elif self.layers == "weights":
            params |= {f"weight_{knot}": 1.0 for knot in range(self._knots)}
        if self.gates:
            params["gate"] = setting.gate_fpr is not None
            if setting.gate_fpr is not None and setting.gate_layer is not None:
                params |= {"gate_fpr": setting.gate_fpr, "gate_place": sorted(self.gates).index(setting.gate_layer)}
        return params

    def gated_start(self, push: float, gate_layer: int, gate_fpr: float) -> Setting:
        """Nothing ablated, every layer above this gate steered alike, by this push."""
        weights = above_gate((1.0,) * self.depth, self.gates[gate_layer])
        one = self.push_at_one(0, 1.0, weights)
        return Setting(float(f"{push / one:.3g}") if one > 0 else 0.0, 0, 1.0, weights, gate_fpr, gate_layer)

    def push_at_one(self, k: int, lambda_: float, weights: tuple[float, ...]) -> float:
        """Mean over all layers of w_l ‖v_l‖ / ‖h_l‖: what α = 1 would push."""
        norms = self.steering.activation_norms.double()
        lengths = self.steering.vectors(k, lambda_, weights).double().norm(dim=1)
        return float(torch.where(norms > 0, lengths / norms, torch.zeros_like(norms)).mean())

    def _draw_weights(self, trial: Trial) -> tuple[float, ...]:
        if self.layers == "all":
            return (1.0,) * self.depth
        if self.layers == "range":
            ends = [trial.suggest_int(name, 0, self.depth - 1) for name in ("one_end", "other_end")]
            return tuple(float(min(ends) <= layer <= max(ends)) for layer in range(self.depth))
        knots = torch.tensor([trial.suggest_float(f"weight_{knot}", 0.0, 1.0) for knot in range(self._knots)])
        if float(knots.max()) < 0.01:  # nothing to scale: a push spread over no layer is none
            knots = torch.ones_like(knots)
        drawn = torch.nn.functional.interpolate(
            (knots / knots.max())[None, None], size=self.depth, mode="linear", align_corners=True
        )
        return tuple(round(float(weight), 3) for weight in drawn[0, 0])

    @property
    def _knots(self) -> int:
        return min(KNOTS, self.depth)
