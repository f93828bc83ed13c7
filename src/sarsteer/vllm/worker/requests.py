"""The requests in a worker's steps. Each request's strength is looked up once, when it arrives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sarsteer.vllm.settings import ServerSettings
from sarsteer.vllm.strengths import RequestStrength, applied_strength
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.decision_log import DecisionLog
from sarsteer.vllm.worker.rows import NOWHERE, OPEN, rows_of
from sarsteer.vllm.worker.slots import RequestSlots


class SteeredRequests:
    """Writes the strengths of each step's rows; a ``RunnerObserver``.

    A request that was never announced gets the operator's strength: nothing is answered unsteered.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.attachment: Attachment | None = None
        self.slots: RequestSlots | None = None
        self.log: DecisionLog | None = None
        self._settings = settings
        self._default = applied_strength(None, settings)
        self._strengths: dict[str, RequestStrength] = {}

    def attach(self, attachment: Attachment) -> None:
        """Write into ``attachment`` from now on, and forget all requests."""
        gates = attachment.gates
        decides = gates is not None and any(scorer.layer in attachment.layers for scorer in gates.scorers)
        self.attachment = attachment
        self.slots = RequestSlots(gates.decisions) if gates is not None and decides else None
        self._strengths.clear()

    def add(self, request_id: str, sampling_params: Any) -> None:
        """Remember the request's strength, and give it a slot if it is gated."""
        strength = applied_strength(getattr(sampling_params, "extra_args", None), self._settings)
        self._strengths[request_id] = strength
        gate_layer = self._settings.sets[strength.set_index].gate_layer
        if self.slots is not None and self.attachment is not None and gate_layer in self.attachment.layers:
            self.slots.add(request_id)

    def remove(self, request_ids: Iterable[str]) -> None:
        """Forget these requests."""
        request_ids = list(request_ids)
        decided = self.slots.remove(request_ids) if self.slots is not None else None
        if self.log is not None and decided is not None:
            names, rows = decided
            sets = [self._settings.sets[self._strengths.get(name, self._default).set_index] for name in names]
            self.log.add(
                [{"id": name, "set": used.name, "shadow": used.shadow} for name, used in zip(names, sets, strict=True)],
                rows,
            )
        for request_id in request_ids:
            self._strengths.pop(request_id, None)

    def step(self, request_ids: Sequence[str], computed: Any, scheduled: Any, prompt_lengths: Any) -> None:
        """Write the rows of the next step."""
        assert self.attachment is not None
        strengths = [self._strengths.get(request_id, self._default) for request_id in request_ids]
        alphas, sets = [strength.alpha for strength in strengths], [strength.set_index for strength in strengths]
        slots: Any = OPEN
        decided: Any = NOWHERE
        if self.slots is not None:
            last = np.asarray(prompt_lengths) - 1
            deciding = (np.asarray(computed) <= last) & (last < np.asarray(computed) + np.asarray(scheduled))
            slots, decided = self.slots.begin_step(request_ids, deciding.tolist())
        self.attachment.fill(rows_of(alphas, sets, computed, scheduled, prompt_lengths, slots, decided))
