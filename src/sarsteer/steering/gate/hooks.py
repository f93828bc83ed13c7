"""The gate inside a model: it decides in prefill, for each row of a batch, and the decision holds while decoding.

If the gate reads several layers, each of the earlier ones adds its part of the score, and the deepest one decides. A
forward is a prefill if it has more than one position. Everything that changes between requests is in buffers that are
written in place, so compiled graphs stay valid for every request and for another threshold. A row without a decision is
steered: rows beyond those of the newest prefill, and prompts of one token.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of
from sarsteer.steering.gate.distance import mahalanobis
from sarsteer.steering.gate.gate import LOGISTIC, Decision, Gate
from sarsteer.steering.hooks import SteeredForward, delta_of, steer

CAPACITY = 4096
"""Largest number of rows in a forward, beams and samples included."""

STATE = "_sarsteer_gate"
"""Name of the ``GateState`` on the layers that the gate reads and on those above them."""
PLACE = "_sarsteer_gate_place"
"""Name of a layer's place among the earlier layers that the gate reads."""


class GateNumbers(nn.Module):
    """A gate's numbers as buffers, and its decisions on activations.

    Args:
        gate: the gate.
        device: device of the activations.

    """

    def __init__(self, gate: Gate, device: torch.device) -> None:
        super().__init__()
        self.layers = gate.layers
        for name, tensor in _tensors(gate).items():
            self.register_buffer(name, tensor.to(device, copy=True), persistent=False)  # never the gate's own tensor

    @property
    def layer(self) -> int:
        """The layer that decides."""
        return self.layers[-1]

    def contribute(self, place: int, h: torch.Tensor, partial: torch.Tensor) -> None:
        """Add the part of the score that the earlier layer at ``place`` has, from its ``h`` ``[B, D]``, in float32.

        The first of them overwrites ``partial`` ``[B]``. Traced into compiled graphs.
        """
        b: Any = self
        partial.addmv_(h, b.earlier_weights[place], beta=0 if place == 0 else 1)

    def judge(
        self, h: torch.Tensor, partial: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score, distance (NaN if none is measured) and opening for activations ``[B, D]`` in float32: ``[B]`` each.

        Traced into compiled graphs: no control flow depends on data.

        Args:
            h: of the layer that decides.
            partial: ``[B]``, what the earlier layers contributed; used only if there are any.

        """
        b: Any = self
        score: Any = torch.addmv(b.bias, h, b.weight)
        if len(self.layers) > 1:
            score = score + partial
        margin = (score - b.threshold) / b.temperature
        if b.places.shape[0]:
            distance = mahalanobis(h, b.center, b.basis, b.gains, b.places, b.unit)
            margin = margin.masked_fill(~(distance <= b.limit), math.nan)  # NaN is beyond the limit
        else:
            distance = torch.full_like(score, math.nan)
        # NaN must open the gate
        return score, distance, margin.sigmoid().nan_to_num(1.0)

    def put(self, gate: Gate) -> None:
        """Write another gate's numbers in place."""
        for name, tensor in _tensors(gate).items():
            getattr(self, name).copy_(tensor)

    def holds(self, gate: Gate) -> bool:
        """Whether these are exactly ``gate``'s numbers."""
        return all(torch.equal(getattr(self, name).cpu(), tensor) for name, tensor in _tensors(gate).items())


class GateState(GateNumbers):
    """A gate's numbers and its decisions on the newest prefill, as buffers that every layer above the gate reads.

    One module is the child of all these layers, so that moving the model moves it once.
    """

    def __init__(self, gate: Gate, device: torch.device) -> None:
        super().__init__(gate, device)
        self._decides = True  # False: the gate is always open
        self.openings: torch.Tensor
        self.register_buffer("openings", torch.ones(CAPACITY, 1, device=device), persistent=False)
        self.partial: torch.Tensor  # what the earlier layers contributed to the score of the newest prefill's rows
        self.register_buffer("partial", torch.zeros(CAPACITY, device=device), persistent=False)
        self.scores: torch.Tensor  # of the newest prefill's rows
        self.register_buffer("scores", torch.zeros(CAPACITY, device=device), persistent=False)
        self.distances: torch.Tensor
        self.register_buffer("distances", torch.zeros(CAPACITY, device=device), persistent=False)
        self.rows: torch.Tensor  # how many the newest prefill had
        self.register_buffer("rows", torch.zeros((), dtype=torch.long, device=device), persistent=False)
        self.count: torch.Tensor  # prefills so far
        self.register_buffer("count", torch.zeros((), dtype=torch.long, device=device), persistent=False)

    def takes(self, gate: Gate) -> bool:
        """Whether ``gate`` can replace the present one in place."""
        tensors = _tensors(gate)
        return gate.layers == self.layers and all(getattr(self, name).shape == t.shape for name, t in tensors.items())

    def write(self, gate: Gate | None) -> None:
        """Use ``gate`` from the next prefill on; None is always open."""
        self._decides = gate is not None
        if gate is not None:
            self.put(gate)
        else:
            numbers: Any = self
            numbers.threshold.fill_(math.nan)  # no score is at or below it
        self.forget()

    def forget(self) -> None:
        """Discard the decisions: everything is steered until the next prefill decides."""
        self.openings.fill_(1.0)
        self.rows.zero_()

    def resume(self, openings: torch.Tensor) -> None:
        """Steer the rows of the next decode steps by ``openings`` ``[B, 1]``, which earlier prefills decided."""
        self.openings.fill_(1.0)
        self.openings[: len(openings)] = openings

    def read(self, place: int, h: torch.Tensor) -> None:
        """Add an earlier layer's part of the score, from its last prompt tokens ``[B, D]``. Traced, as ``decide``."""
        self.contribute(place, self._rows(h), self.partial[: h.shape[0]])

    def decide(self, h: torch.Tensor) -> None:
        """Decide on the last prompt tokens ``[B, D]``. Traced into compiled graphs: no control flow depends on data."""
        rows = h.shape[0]
        score, distance, opened = self.judge(self._rows(h), self.partial[:rows])
        self.openings.fill_(1.0)
        self.openings[:rows].copy_(opened[:, None])
        self.scores[:rows].copy_(score)
        self.distances[:rows].copy_(distance)
        self.rows.fill_(rows)
        self.count.add_(1)

    def _rows(self, h: torch.Tensor) -> torch.Tensor:
        if h.shape[0] > CAPACITY:
            raise SteeringError(
                f"{h.shape[0]} rows in one forward, a gate takes at most {CAPACITY}; use smaller batches"
            )
        return (h.detach() if h.requires_grad else h).to(self.openings.device, torch.float32)

    @property
    def prefills(self) -> int:
        """Number of prefills so far."""
        return int(self.count)

    def decisions(self, alpha: float) -> list[Decision]:
        """The decisions on the newest prefill's rows, in order; empty if nothing was decided."""
        if not self._decides:
            return []
        rows, limit = int(self.rows), float(getattr(self, "limit"))
        measured = len(getattr(self, "places")) > 0
        return [
            Decision(
                score=score,
                opening=opened,
                strength=alpha * opened,
                distance=distance if measured else None,
                out_of_distribution=measured and math.isfinite(limit) and not distance <= limit,
            )
            for score, distance, (opened,) in zip(
                self.scores[:rows].tolist(), self.distances[:rows].tolist(), self.openings[:rows].tolist(), strict=True
            )
        ]


_NO_DISTANCE = {name: torch.zeros(0) for name in ("center", "basis", "gains", "places", "unit")}


def _tensors(gate: Gate) -> dict[str, torch.Tensor]:
    distance, width = gate.distance, len(gate.weight)
    hard, threshold = gate.mode != LOGISTIC, torch.tensor(gate.threshold)
    return {
        "weight": gate.weight.detach().float(),
        "earlier_weights": torch.stack([w.detach().float() for w in gate.earlier.values()])
        if gate.earlier
        else torch.zeros(0, width),
        "bias": torch.tensor(gate.bias),
        # one formula for all modes: a margin divided by 0 is infinite, and the gate is closed at the threshold itself
        "threshold": torch.nextafter(threshold, torch.tensor(math.inf)) if hard else threshold,
        "temperature": torch.tensor(0.0 if hard else gate.temperature),
        "limit": torch.tensor(math.inf if gate.limit is None else gate.limit),
        **(_NO_DISTANCE if distance is None else distance.factors),
    }


def read(layer: nn.Module, output: Any) -> None:
    """Each prefill adds an earlier layer's part to the score of its last position."""
    hidden = residual_of(output)
    if hidden.shape[-2] > 1:
        getattr(layer, STATE).read(getattr(layer, PLACE), hidden.select(-2, -1))


def decide(layer: nn.Module, output: Any) -> None:
    """Each prefill decides on the last position of the gate's layer; a decode step changes nothing."""
    hidden = residual_of(output)
    if hidden.shape[-2] > 1:
        getattr(layer, STATE).decide(hidden.select(-2, -1))


def steer_gated(layer: nn.Module, output: Any) -> None:
    """``h += opening · α v`` at the last position, with the opening of each row."""
    row = residual_of(output).select(-2, -1)
    opened = getattr(layer, STATE).openings[: row.shape[0]]
    if opened.device != row.device:
        opened = opened.to(row.device)
    row.addcmul_(opened, delta_of(layer))


class ReadForward(SteeredForward):
    """``forward`` of an earlier layer that the gate reads."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Read, then steer: with a gate, zeros are added here. Traced into compiled graphs."""
        output = self.forward(*args, **kwargs)
        read(self.layer, output)
        steer(self.layer, output)
        return output


class DecidingForward(SteeredForward):
    """``forward`` of the gate's layer."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Decide, then steer: with a gate, zeros are added here. Traced into compiled graphs."""
        output = self.forward(*args, **kwargs)
        decide(self.layer, output)
        steer(self.layer, output)
        return output


class GatedForward(SteeredForward):
    """``forward`` of a layer above the gate's."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Steer by the decisions. Traced into compiled graphs."""
        output = self.forward(*args, **kwargs)
        steer_gated(self.layer, output)
        return output
