"""Which slot holds the gate decision of which request. Kept on the host; nothing here waits for the device."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

import numpy as np
import torch

from sarsteer.vllm.worker.gates import FAR, OPENING
from sarsteer.vllm.worker.rows import NOWHERE, OPEN
from sarsteer.vllm.worker.transfer import send

logger = logging.getLogger(__name__)


class RequestSlots:
    """Gives each gated request a slot of ``decisions`` from its arrival to its end.

    Args:
        decisions: ``[CAPACITY, 4]``, ``WorkerGates.decisions``.

    """

    def __init__(self, decisions: torch.Tensor) -> None:
        self._decisions = decisions
        self._free = list(range(len(decisions) - 1, max(OPEN, NOWHERE), -1))
        self._slots: dict[str, int] = {}
        self._decided: set[str] = set()
        self._warned = False
        self._totals = torch.zeros(3, dtype=torch.float64, device=decisions.device)
        self._finished: deque[tuple[list[str], torch.Tensor]] = deque(maxlen=1024)

    def add(self, request_id: str) -> None:
        """Give a new request a slot, open until it is decided. A known request keeps its decision."""
        if request_id in self._slots:
            return
        if not self._free:
            if not self._warned:
                logger.warning("sarsteer: over %d requests at once; those beyond are steered ungated", len(self._slots))
            self._warned = True
            return
        self._slots[request_id] = slot = self._free.pop()
        self._decisions[slot].fill_(1.0)

    def remove(self, request_ids: Iterable[str]) -> tuple[list[str], torch.Tensor] | None:
        """Free the slots of finished requests, and keep their decisions for a while.

        Returns those that were decided, and their decisions ``[n, 4]``; None if there are none.
        """
        known = [request_id for request_id in request_ids if request_id in self._slots]
        decided = [request_id for request_id in known if request_id in self._decided]
        if decided:
            rows = self._rows(decided)
            self._totals += torch.stack([torch.ones_like(rows[:, 0]), rows[:, OPENING], rows[:, FAR]]).sum(1)
            self._finished.append((decided, rows))
        for request_id in known:
            self._free.append(self._slots.pop(request_id))
            self._decided.discard(request_id)
        return (decided, rows) if decided else None

    def begin_step(self, request_ids: Iterable[str], deciding: Iterable[bool]) -> tuple[list[int], list[int]]:
        """Each request's slot, and the slot that its last prompt token writes, in this step if it is ``deciding``."""
        slots, decided = [], []
        for request_id, decides_now in zip(request_ids, deciding, strict=True):
            slot = self._slots.get(request_id)
            slots.append(OPEN if slot is None else slot)
            decided.append(NOWHERE if slot is None or request_id in self._decided else slot)
            if decides_now and slot is not None:
                self._decided.add(request_id)
        return slots, decided

    def totals(self) -> dict[str, float]:
        """Finished requests that were decided: their number, the sum of openings, how many were out of distribution."""
        count, opening, far = self._totals.tolist()
        return {"requests": int(count), "openings": opening, "out_of_distribution": int(far)}

    def take(self) -> dict[str, list[float]]:
        """Opening, score, distance, and 1 if out of distribution, of running and newly finished requests."""
        decisions: dict[str, list[float]] = {}
        for ids, rows in self._finished:
            decisions |= dict(zip(ids, rows.tolist(), strict=True))
        self._finished.clear()
        running = sorted(self._decided)
        return decisions | (dict(zip(running, self._rows(running).tolist(), strict=True)) if running else {})

    def _rows(self, request_ids: list[str]) -> torch.Tensor:
        index = torch.empty(len(request_ids), dtype=torch.int64, device=self._decisions.device)
        send(index, np.array([self._slots[request_id] for request_id in request_ids]))
        return self._decisions[index]
