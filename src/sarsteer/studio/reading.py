"""What the activations of one request say, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.strength import ResolvedStrength


@dataclass(frozen=True)
class LayerReading:
    """One request, one value per decoder layer; NaN where a layer has none.

    Attributes:
        undefended: ``(h − m)·v̂ / median ‖h‖``: the projection on the refusal vector, from the mean m of the safe
            calibration clips, relative to the norm of the activations.
        defended: the same while steering is applied.
        harmful: the same for the mean of the harmful calibration clips.

    """

    undefended: Sequence[float]
    defended: Sequence[float]
    harmful: Sequence[float]


def read_layers(
    steering: Steering, strength: ResolvedStrength, resting: torch.Tensor, steered: torch.Tensor
) -> LayerReading:
    """The reading of a request from its activations ``[L, D]`` without and with steering."""
    norms = strength.vectors.norm(dim=1, keepdim=True)
    directions = strength.vectors / norms  # NaN for layers without a vector
    scale = steering.activation_norms.float()

    def projection(h: torch.Tensor) -> list[float]:
        values: list[float] = (((h.float() - steering.safe_mean.float()) * directions).sum(dim=1) / scale).tolist()
        return values

    return LayerReading(projection(resting), projection(steered), projection(steering.harmful_mean))


def gate_parts(gate: Gate, steering: Steering, resting: torch.Tensor) -> dict[int, float]:
    """What each layer that the gate reads contributes to the score of activations ``[L, D]``.

    ``w_l·(h_l − c_l)``, with c the middle between the means of safe and harmful calibration clips. The score is 0
    there, so the parts add up to it. What is left, if the gate was fitted around another middle, is added to the
    deciding layer's part.
    """
    middle = (steering.safe_mean.float() + steering.harmful_mean.float()) / 2
    parts = {layer: float((resting[layer].float() - middle[layer]) @ w.float()) for layer, w in gate.weights.items()}
    parts[gate.layer] += float(gate.score(resting)) - sum(parts.values())
    return parts


@dataclass(frozen=True)
class GateReading:
    """What the gate makes of a request.

    Attributes:
        score: s; higher is more harmful.
        threshold: scores above it open the gate.
        far: the request is unlike the calibration's, and is steered at any score.
        steered: whether this request is steered.
        active: whether the gate decides; without it every request is steered.

    """

    score: float
    threshold: float
    far: bool
    steered: bool
    active: bool

    @property
    def sentence(self) -> str:
        """The decision in words."""
        number = f"{self.score:.2f}".replace("-", "−")
        limit = f"{self.threshold:.2f}".replace("-", "−")
        if not self.active:
            return f"Harm score {number}. The gate is off: every request is steered."
        if self.far:
            return f"Harm score {number}, and the request is unlike the calibration clips: it is steered at any score."
        if self.steered:
            return f"Harm score {number}, above the threshold {limit}: the gate is open and the request is steered."
        return f"Harm score {number}, not above the threshold {limit}: the gate is closed and nothing is added."
