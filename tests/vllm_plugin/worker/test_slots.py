"""Slots hold a request's decision from its arrival to its end."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from sarsteer.vllm.worker import runner_v1
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.gates import CAPACITY
from sarsteer.vllm.worker.requests import SteeredRequests
from sarsteer.vllm.worker.rows import NOWHERE, OPEN
from sarsteer.vllm.worker.slots import RequestSlots
from tests.support.vllm_parts import (
    GATE_LAYER,
    Decoder,
    Sequence,
    forward,
    gate_at,
    gated_requests,
    random_vectors,
    server_settings,
    vector_set,
)


def test_all_slots_but_two_belong_to_requests() -> None:
    slots = RequestSlots(torch.ones(CAPACITY, 4))
    assert len(slots._free) == CAPACITY - 2
    assert {OPEN, NOWHERE}.isdisjoint(slots._free)
    assert np.all(np.array(slots.begin_step(["unknown"], [True])) == [[OPEN], [NOWHERE]])


def test_decisions_survive_preemption_and_slots_are_freed() -> None:
    requests, attachment, decoder = gated_requests(gate_at())
    assert attachment.gates is not None
    assert requests.slots is not None
    sequence = Sequence("a", 4, 8, 0, 0.5)
    requests.add("a", sequence.params)
    requests.step(["a"], [0], [4], [4])
    forward(decoder, sequence.tokens[:4])
    first = requests.slots.take()["a"][:2]
    attachment.gates.scorers[0].put(gate_at().bare().with_threshold(-1e9 if first[0] == 0 else 1e9))
    requests.add("a", sequence.params)  # as the second runner announces it after a preemption
    requests.step(["a"], [0], [6], [4])
    forward(decoder, sequence.tokens[:6])
    assert requests.slots.take()["a"][:2] == first
    free = len(requests.slots._free)
    requests.remove(["a"])
    assert requests.slots.take()["a"][:2] == first, "kept for a while"
    assert requests.slots.take() == {}
    assert len(requests.slots._free) == free + 1
    assert requests.slots.totals() == {"requests": 1, "openings": first[0], "out_of_distribution": 0}


def test_an_engine_that_becomes_idle_frees_the_slots() -> None:
    """Its last step has no tokens: the runner's states are updated, and no inputs are prepared."""
    requests, _, _ = gated_requests(gate_at())
    assert requests.slots is not None
    runner = SimpleNamespace(input_batch=None, _update_states=lambda _: None, _prepare_inputs=lambda *_: None)
    runner_v1.observe(runner, requests)
    free = len(requests.slots._free)
    for number in range(3):
        new = SimpleNamespace(req_id=str(number), sampling_params=SimpleNamespace(extra_args=None))
        runner._update_states(SimpleNamespace(finished_req_ids=set(), scheduled_new_reqs=[new]))
        assert len(requests.slots._free) == free - 1
        runner._update_states(SimpleNamespace(finished_req_ids={str(number)}, scheduled_new_reqs=[]))
    assert len(requests.slots._free) == free


def test_a_stage_without_the_gate_has_no_slots() -> None:
    requests = SteeredRequests(server_settings(replace(vector_set(), gate_layer=GATE_LAYER)))
    requests.attach(Attachment(Decoder(range(1)), random_vectors(), 8, torch.device("cpu"), [gate_at()]))
    requests.add("a", SimpleNamespace(extra_args=None))
    requests.step(["a"], [0], [3], [3])
    requests.remove(["a"])
    assert requests.slots is None
