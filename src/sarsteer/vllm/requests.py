"""The requests of a worker's steps: who is told of them, and the strengths that steering looks up once each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from sarsteer.vllm.attachment import Attachment
from sarsteer.vllm.gates import RequestSlots
from sarsteer.vllm.rows import NOWHERE, OPEN, rows_of
from sarsteer.vllm.settings import Settings
from sarsteer.vllm.strengths import Strength, applied_strength


class Follower(Protocol):
    """Told of a model runner's requests and steps, by ``runner_v1`` or ``runner_v2``."""

    def add(self, request_id: str, sampling_params: Any) -> None:
        """A request is new, or replaces one of the same id."""

    def remove(self, request_ids: Iterable[str]) -> None:
        """Requests are finished."""

    def step(self, request_ids: Sequence[str], computed: Any, scheduled: Any, prompt_lengths: Any) -> None:
        """A step's batch is settled and its forward comes next; the arguments are those of ``rows.past_prompt``."""


class SteeredRequests:
    """Writes the strengths of each step's rows.

    A request that was never announced has the operator's own strength: nothing goes unsteered.
    """

    def __init__(self, settings: Settings) -> None:
        self.attachment: Attachment | None = None
        self.slots: RequestSlots | None = None
        self._settings = settings
        self._default = applied_strength(None, settings)
        self._of: dict[str, Strength] = {}

    def attach(self, attachment: Attachment) -> None:
        """Write into this from now on, and know of no request so far."""
        gates = attachment.gates
        decides = gates is not None and any(judge.layer in attachment.layers for judge in gates.judges)
        self.attachment = attachment
        self.slots = RequestSlots(gates.decisions) if gates is not None and decides else None
        self._of.clear()

    def add(self, request_id: str, sampling_params: Any) -> None:
        """Note its strength, and give it a slot where it is gated."""
        strength = applied_strength(getattr(sampling_params, "extra_args", None), self._settings)
        self._of[request_id] = strength
        gate_layer = self._settings.sets[strength.index].gate_layer
        if self.slots is not None and self.attachment is not None and gate_layer in self.attachment.layers:
            self.slots.add(request_id)

    def remove(self, request_ids: Iterable[str]) -> None:
        """Forget them."""
        request_ids = list(request_ids)
        if self.slots is not None:
            self.slots.remove(request_ids)
        for request_id in request_ids:
            self._of.pop(request_id, None)

    def step(self, request_ids: Sequence[str], computed: Any, scheduled: Any, prompt_lengths: Any) -> None:
        """Write the rows."""
        assert self.attachment is not None
        found = [self._of.get(request_id, self._default) for request_id in request_ids]
        alphas, sets = [one.alpha for one in found], [one.index for one in found]
        slots: Any = OPEN
        decided: Any = NOWHERE
        if self.slots is not None:
            last = np.asarray(prompt_lengths) - 1
            deciding = (np.asarray(computed) <= last) & (last < np.asarray(computed) + np.asarray(scheduled))
            slots, decided = self.slots.begin_step(request_ids, deciding.tolist())
        self.attachment.fill(rows_of(alphas, sets, computed, scheduled, prompt_lengths, slots, decided))
