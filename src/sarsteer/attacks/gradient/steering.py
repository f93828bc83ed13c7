"""The defense's steering as an attacker differentiates it: every added vector, and a soft form of the gate.

The hooks of an attached steering add in place, decide by a step without gradient, and steer the newest position of each
forward. These hooks compute the same values on a given answer in one forward: they add out of place, to the last prompt
token and all tokens after it, and the gate opens by a logistic function of its score. At a temperature of None they
decide exactly as the gate does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of
from sarsteer.steering.gate.gate import SHADOW, Gate
from sarsteer.steering.gate.hooks import GateNumbers
from sarsteer.steering.strength import ResolvedStrength


@dataclass(frozen=True)
class Reading:
    """What one forward shows about the defense. Tensors carry gradients.

    Attributes:
        activations: ``[L, D]`` of the last prompt token, before anything is added to the layer's output.
        score: the gate's score; None without a gate.
        distance: the gate's distance; None if it measures none.
        soft_opening: 0 to 1, what multiplied the vectors; None without a gate.
        opening: the gate's true decision at this score and distance, without gradient.

    """

    activations: torch.Tensor
    score: torch.Tensor | None = None
    distance: torch.Tensor | None = None
    soft_opening: torch.Tensor | None = None
    opening: float | None = None


class DifferentiableSteering:
    """A context in which the model's forwards of one row are steered, differentiably.

    Args:
        layers: the decoder layers.
        strength: what is added; None records activations only.
        start: the position of the last prompt token; it and all later positions are steered.
        temperature: see ``DifferentiableClip.forward``.

    """

    def __init__(
        self, layers: Sequence[nn.Module], strength: ResolvedStrength | None, start: int, temperature: float | None
    ) -> None:
        self._layers, self._start, self._temperature = list(layers), start, temperature
        self._gate: Gate | None = None if strength is None else strength.gate
        self._deltas = None if strength is None else strength.deltas
        self._rows: list[torch.Tensor | None] = [None] * len(layers)
        self._reading: Reading | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> DifferentiableSteering:
        for index, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_hook(self._hook(index)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def reading(self) -> Reading:
        """What the forward showed."""
        rows = [row for row in self._rows if row is not None]
        if len(rows) != len(self._layers):
            raise SteeringError("a decoder layer did not run, so nothing is known about its steering")
        activations = torch.stack(rows)
        seen = self._reading
        if seen is None:
            return Reading(activations)
        return Reading(activations, seen.score, seen.distance, seen.soft_opening, seen.opening)

    def _hook(self, index: int) -> Any:
        def steer(_module: nn.Module, _args: Any, output: Any) -> Any:
            hidden = residual_of(output)
            self._rows[index] = hidden[0, self._start]
            if self._gate is not None and index == self._gate.layer:
                self._decide(self._gate)
            if self._deltas is None or not self._deltas[index].any():
                return None
            return _replaced(output, self._steered(hidden, self._deltas[index]))

        return steer

    def _steered(self, hidden: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        added = delta.to(hidden.device, wide)
        if self._gate is not None:
            assert self._reading is not None
            opened = self._reading.soft_opening
            assert opened is not None
            added = opened.to(hidden.device) * added
        steered = (hidden[:, self._start :].to(wide) + added).to(hidden.dtype)
        return torch.cat([hidden[:, : self._start], steered], dim=1)

    def _decide(self, gate: Gate) -> None:
        rows = [row for index, row in enumerate(self._rows) if index in gate.layers and row is not None]
        wide = torch.promote_types(rows[-1].dtype, torch.float32)
        device = rows[-1].device
        numbers = GateNumbers(gate, device).to(wide)
        partial = torch.zeros(1, dtype=wide, device=device)
        for weight, row in zip(list(gate.earlier.values()), rows, strict=False):
            partial = partial + row.to(device, wide) @ weight.to(device, wide)
        score, distance, opened = numbers.judge(rows[-1].to(wide)[None], partial)
        measured = gate.distance is not None
        hard = opened.detach()
        soft = hard
        if self._temperature is not None:
            soft = soft_opening(gate, score, distance if measured else None, self._temperature)
        self._reading = Reading(
            activations=rows[-1],
            score=score[0],
            distance=distance[0] if measured else None,
            soft_opening=soft[0],
            opening=float(hard[0]) if gate.mode != SHADOW else 0.0,
        )


def soft_opening(gate: Gate, score: torch.Tensor, distance: torch.Tensor | None, temperature: float) -> torch.Tensor:
    """The gate's opening with a gradient: the probability that the score or the distance opens it.

    ``1 − (1 − σ((s − threshold) / τ)) (1 − σ((d − limit) / (τ limit)))``; the second factor only with a limit.

    Args:
        gate: the gate.
        score: ``[...]``.
        distance: ``[...]``, None if the gate measures none.
        temperature: τ.

    """
    closed = torch.sigmoid(-(score - gate.threshold) / temperature)
    if distance is not None and gate.limit is not None:
        closed = closed * torch.sigmoid(-(distance - gate.limit) / (temperature * gate.limit))
    return 1 - closed


def _replaced(output: Any, hidden: torch.Tensor) -> Any:
    """A layer's output with another residual stream; see ``residual_of``."""
    first = output[0] if isinstance(output, tuple) else output
    if first.ndim == 4:  # several streams: the first is the residual stream
        hidden = torch.cat([hidden[None], first[1:]])
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
