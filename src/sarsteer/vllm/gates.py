"""Gates inside one vLLM worker: decided at the last prompt token, in the graph, and carried by the request.

A request has a slot for as long as the engine knows it, preempted or not. In the step that computes its last prompt
token, the gate's layer judges every row and writes that row's judgement into the slot; every later row of the request
reads it. What is decided stays: a prompt that is computed anew after a preemption does not decide again.

Rows that no request owns read slot ``OPEN``, which is 1 always: what was never decided is steered.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.hooks import GateNumbers
from sarsteer.vllm.rows import NOWHERE, OPEN, Ints

logger = logging.getLogger(__name__)

CAPACITY = 16384
"""Slots, two of which are no request's. Requests that run and wait beyond that many are steered whatever they ask."""

OPENING, SCORE, DISTANCE, FAR = range(4)
"""Columns of ``Gates.decisions``; ``FAR`` is 1 for what is unlike the calibration."""


class Judge(GateNumbers):
    """One vector set's gate."""

    def __init__(self, index: int, gate: Gate, device: torch.device) -> None:
        super().__init__(gate, device, many=True)
        self.index, self.gate = index, gate


class Gates(nn.Module):
    """What was decided of every request, and the rows of the step that read and write it.

    Args:
        gates: of each vector set; None where it has none.
        layers: decoder layers of this worker.
        sets: ``[max rows]``, the vector set of each row.
        strengths: ``[max rows, 1]``, α of each row.

    Raises:
        SteeringError: a gate's layer is in an earlier pipeline stage than a layer that it decides for.

    """

    def __init__(
        self, gates: Sequence[Gate | None], layers: Iterable[int], sets: torch.Tensor, strengths: torch.Tensor
    ) -> None:
        super().__init__()
        local, device = set(layers), strengths.device
        self.judges = [Judge(index, gate, device) for index, gate in enumerate(gates) if gate is not None]
        for judge in self.judges:
            if max(local) > judge.layer and judge.layer not in local:
                raise SteeringError(
                    f"the gate decides at decoder layer {judge.layer}, which is in another pipeline stage than layer "
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
        """The lowest layer at which something is decided."""
        return min(judge.layer for judge in self.judges)

    def decide(self, h: torch.Tensor, judges: Iterable[Judge]) -> None:
        """Judge the rows of this layer's output, ``[T, D]`` in float32. Traced into compiled graphs."""
        rows = h.shape[0]
        for judge in judges:
            score, distance, opened = judge.judge(h)
            goes_to = torch.where(self.sets[:rows] == judge.index, self.decided[:rows], NOWHERE)
            limit: Any = judge.limit
            far = (~(distance <= limit) & (limit < torch.inf)).to(h.dtype)
            self.decisions.index_copy_(0, goes_to, torch.stack([opened, score, distance, far], dim=-1))
        opening = self.decisions[self.slots[:rows], OPENING]
        self.gated[:rows].copy_(self.strengths[:rows] * opening[:, None])

    def set_rows(self, slots: Ints, decided: Ints, before: int) -> None:
        """Set the rows of the next step, where ``before`` rows were set last."""
        rows = len(slots)
        send(self.slots[:rows], slots)
        send(self.decided[:rows], decided)
        if before > rows:  # padding of a captured graph runs through stale rows, and must decide nothing
            self.decided[rows:before].fill_(NOWHERE)

    def rest(self) -> None:
        """No row decides anything: for forwards that no request is in."""
        self.decided.fill_(NOWHERE)

    def clear(self) -> None:
        """Forget every decision, and read none."""
        self.rest()
        self.slots.fill_(OPEN)
        self.decisions.fill_(1.0)

    @property
    def intact(self) -> bool:
        """Whether the judges are those of the files, and undecided rows are steered, at this moment."""
        return all(judge.holds(judge.gate) for judge in self.judges) and bool((self.decisions[OPEN] == 1).all())


class RequestSlots:
    """Which slot is whose, kept on the host. Nothing here waits for the device."""

    def __init__(self, decisions: torch.Tensor) -> None:
        self._decisions = decisions
        self._free = list(range(len(decisions) - 1, max(OPEN, NOWHERE), -1))
        self._of: dict[str, int] = {}
        self._decided: set[str] = set()
        self._warned = False
        self._totals = torch.zeros(3, dtype=torch.float64, device=decisions.device)
        self._finished: deque[tuple[list[str], torch.Tensor]] = deque(maxlen=1024)

    def add(self, request_id: str) -> None:
        """Give a new request a slot, open until it is decided; one that is known keeps what was decided."""
        if request_id in self._of:
            return
        if not self._free:
            if not self._warned:
                logger.warning("sarsteer: over %d requests at once; those beyond are steered ungated", len(self._of))
            self._warned = True
            return
        self._of[request_id] = slot = self._free.pop()
        self._decisions[slot].fill_(1.0)

    def remove(self, request_ids: Iterable[str]) -> None:
        """Take the slots of finished requests back, and keep their decisions for a while."""
        known = [request_id for request_id in request_ids if request_id in self._of]
        decided = [request_id for request_id in known if request_id in self._decided]
        if decided:
            found = self._rows(decided)
            self._totals += torch.stack([torch.ones_like(found[:, 0]), found[:, OPENING], found[:, FAR]]).sum(1)
            self._finished.append((decided, found))
        for request_id in known:
            self._free.append(self._of.pop(request_id))
            self._decided.discard(request_id)

    def begin_step(self, request_ids: Iterable[str], deciding: Iterable[bool]) -> tuple[list[int], list[int]]:
        """Each request's slot, and the slot that its last prompt token decides, in this step if it is ``deciding``."""
        slots, decided = [], []
        for request_id, now in zip(request_ids, deciding, strict=True):
            slot = self._of.get(request_id)
            slots.append(OPEN if slot is None else slot)
            decided.append(NOWHERE if slot is None or request_id in self._decided else slot)
            if now and slot is not None:
                self._decided.add(request_id)
        return slots, decided

    def totals(self) -> dict[str, float]:
        """Of finished requests: how many were decided, the sum of their openings, and how many were unlike the rest."""
        count, opening, far = self._totals.tolist()
        return {"requests": int(count), "openings": opening, "out_of_distribution": int(far)}

    def take(self) -> dict[str, list[float]]:
        """Opening, score, distance and whether out of distribution, of running and newly finished requests."""
        found: dict[str, list[float]] = {}
        for ids, rows in self._finished:
            found |= dict(zip(ids, rows.tolist(), strict=True))
        self._finished.clear()
        running = sorted(self._decided)
        return found | (dict(zip(running, self._rows(running).tolist(), strict=True)) if running else {})

    def _rows(self, request_ids: list[str]) -> torch.Tensor:
        index = torch.empty(len(request_ids), dtype=torch.int64, device=self._decisions.device)
        send(index, np.array([self._of[one] for one in request_ids]))
        return self._decisions[index]


def send(target: torch.Tensor, values: NDArray[Any]) -> None:
    """Copy from the host in the device's own order; from pinned memory the host does not wait for it."""
    source = torch.from_numpy(values)
    target.copy_(source.pin_memory() if target.is_cuda else source, non_blocking=True)
