"""Gates in one vLLM worker: each request is decided at its last prompt token, inside the graph, and remembered.

A request has a slot for as long as the engine knows it, preempted or not. In the step that computes its last prompt
token, the layers that the gate reads score every row, and the last of them writes that row's decision into the slot;
every later row of the request reads it. Decisions are final: a prompt that is computed again after a preemption does
not decide again.

Rows that no request owns read slot ``OPEN``, which is always 1: whatever was never decided is steered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.hooks import GateNumbers
from sarsteer.vllm.worker.rows import NOWHERE, OPEN, Ints
from sarsteer.vllm.worker.transfer import send

CAPACITY = 16384
"""Slots, two of which belong to no request. Running and waiting requests beyond that number are steered ungated."""

OPENING, SCORE, DISTANCE, FAR = range(4)
"""Columns of ``WorkerGates.decisions``; ``FAR`` is 1 if the request is out of distribution."""


class GateScorer(GateNumbers):
    """The gate of one vector set, which scores activations."""

    def __init__(self, set_index: int, gate: Gate, max_rows: int, device: torch.device) -> None:
        super().__init__(gate, device)
        self.set_index, self.gate = set_index, gate
        self.partial: torch.Tensor  # what the earlier layers contributed to the scores of the step's rows
        self.register_buffer("partial", torch.zeros(max_rows if gate.earlier else 0, device=device), persistent=False)

    def read(self, layer: int, h: torch.Tensor) -> None:
        """Add the part of the score that an earlier layer has, from its rows ``[T, D]`` in float32."""
        self.contribute(self.layers.index(layer), h, self.partial[: h.shape[0]])

    def isolate(self, layer: int) -> None:
        """Let only this layer's part of the score count, until ``put``."""
        numbers: Any = self
        for place, other in enumerate(self.layers):
            if other != layer:
                (numbers.weight if other == self.layer else numbers.earlier_weights[place]).zero_()


class WorkerGates(nn.Module):
    """The gates of a worker's vector sets, their decisions, and the rows of the step that read and write them.

    Args:
        gates: the gate of each vector set, or None.
        layers: decoder layers of this worker.
        sets: ``[max rows]``, the vector set of each row.
        strengths: ``[max rows, 1]``, α of each row.

    Raises:
        SteeringError: a layer that a gate reads is in an earlier pipeline stage than one that it decides for.

    """

    def __init__(
        self, gates: Sequence[Gate | None], layers: Iterable[int], sets: torch.Tensor, strengths: torch.Tensor
    ) -> None:
        super().__init__()
        local, device = set(layers), strengths.device
        self.scorers = [
            GateScorer(index, gate, len(sets), device) for index, gate in enumerate(gates) if gate is not None
        ]
        for scorer in self.scorers:
            if max(local) >= scorer.layer and (elsewhere := set(scorer.layers) - local):
                raise SteeringError(
                    f"the gate reads decoder layer {max(elsewhere)}, which is in another pipeline stage than layer "
                    f"{max(local)}; use tensor parallelism instead, or serve without the gate"
                )
        self.decisions: torch.Tensor
        self.register_buffer("decisions", torch.ones(CAPACITY, 4, device=device), persistent=False)
        self.slots: torch.Tensor
        self.register_buffer("slots", torch.full_like(sets, OPEN), persistent=False)
        self.decided: torch.Tensor
        self.register_buffer("decided", torch.full_like(sets, NOWHERE), persistent=False)
        self.sets: torch.Tensor
        self.register_buffer("sets", sets, persistent=False)
        self.strengths: torch.Tensor
        self.register_buffer("strengths", strengths, persistent=False)
        self.gated: torch.Tensor  # α times the opening, for the layers above a gate
        self.register_buffer("gated", torch.zeros_like(strengths), persistent=False)

    @property
    def first(self) -> int:
        """The lowest layer with a gate."""
        return min(scorer.layer for scorer in self.scorers)

    def decide(self, h: torch.Tensor, scorers: Iterable[GateScorer]) -> None:
        """Score the rows of this layer's output, ``[T, D]`` in float32. Traced into compiled graphs."""
        rows = h.shape[0]
        for scorer in scorers:
            score, distance, opened = scorer.judge(h, scorer.partial[:rows])
            target = torch.where(self.sets[:rows] == scorer.set_index, self.decided[:rows], NOWHERE)
            limit: Any = scorer.limit
            far = (~(distance <= limit) & (limit < torch.inf)).to(h.dtype)
            self.decisions.index_copy_(0, target, torch.stack([opened, score, distance, far], dim=-1))
        opening = self.decisions[self.slots[:rows], OPENING]
        self.gated[:rows].copy_(self.strengths[:rows] * opening[:, None])

    def set_rows(self, slots: Ints, decided: Ints, before: int) -> None:
        """Set the rows of the next step; ``before`` is how many the previous step set."""
        rows = len(slots)
        send(self.slots[:rows], slots)
        send(self.decided[:rows], decided)
        if before > rows:  # a captured graph's padding computes stale rows, which must decide nothing
            self.decided[rows:before].fill_(NOWHERE)

    def rest(self) -> None:
        """Let no row decide: for forwards without requests."""
        self.decided.fill_(NOWHERE)

    def clear(self) -> None:
        """Forget every decision, and let no row read one."""
        self.rest()
        self.slots.fill_(OPEN)
        self.decisions.fill_(1.0)

    @property
    def intact(self) -> bool:
        """Whether the scorers are those of the files, and undecided rows are steered, now."""
        return all(scorer.holds(scorer.gate) for scorer in self.scorers) and bool((self.decisions[OPEN] == 1).all())
