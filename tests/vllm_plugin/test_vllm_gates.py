"""Gates inside vLLM's rows, without vLLM: whatever the schedule, each answer is steered as its last prompt token says.

The decoder has no attention, so that a sequence can be followed by hand, token by token.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

import sarsteer
from sarsteer.errors import SteeringError
from sarsteer.steering.gate.distance import fit_distance
from sarsteer.steering.gate.gate import Gate
from sarsteer.vllm import settings
from sarsteer.vllm.engine.block_keys import block_key
from sarsteer.vllm.worker import runner_v1
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.gate_proof import prove_gates
from sarsteer.vllm.worker.gates import CAPACITY
from sarsteer.vllm.worker.proof import ROWS, prove
from sarsteer.vllm.worker.requests import SteeredRequests
from sarsteer.vllm.worker.rows import NOWHERE, OPEN
from sarsteer.vllm.worker.slots import RequestSlots
from sarsteer.vllm.worker.steered_worker import SteeredWorker
from tests.support.vllm_parts import LAYERS, WIDTH, Decoder, configured, one_set

CPU = torch.device("cpu")
G = 1
# float32 sums of eight products in another order
CLOSE = 1e-5


def gate_at(layer: int = G, **changes: Any) -> Gate:
    generator = torch.Generator().manual_seed(layer)
    return replace(Gate(layer, torch.randn(WIDTH, generator=generator), 0.1, 0.0), **changes)


def measuring(**changes: Any) -> Gate:
    """One with a distance, too."""
    generator = torch.Generator().manual_seed(0)
    distance = fit_distance(torch.randn(40, WIDTH, generator=generator), torch.arange(40) % 2)
    return gate_at(distance=distance, **changes)


def vectors_of(sets: int = 1) -> torch.Tensor:
    return torch.randn(sets, LAYERS, WIDTH, generator=torch.Generator().manual_seed(9))


def gated_requests(*gates: Gate | None, rows: int = 64) -> tuple[SteeredRequests, Attachment, Decoder]:
    """Sets "0", "1", ... with these gates, over one decoder."""
    sets = [
        replace(one_set(str(number)), gate_layer=None if gate is None else gate.layer)
        for number, gate in enumerate(gates)
    ]
    requests, decoder = SteeredRequests(configured(*sets, bounds=(0, 1))), Decoder()
    attachment = Attachment(decoder, vectors_of(len(gates)), rows, CPU, gates)
    requests.attach(attachment)
    return requests, attachment, decoder


class Sequence:
    """A request, and what its tokens must become."""

    def __init__(self, name: str, prompt: int, answer: int, index: int, alpha: float) -> None:
        self.name, self.prompt, self.index, self.alpha = name, prompt, index, alpha
        generator = torch.Generator().manual_seed(hash((prompt, answer, index)) % 2**31)
        self.tokens = torch.randn(prompt + answer, WIDTH, generator=generator)
        self.done = 0

    @property
    def params(self) -> SimpleNamespace:
        return SimpleNamespace(extra_args={"sarsteer_alpha": self.alpha, "sarsteer_set": str(self.index)})

    @torch.no_grad()
    def by_hand(self, decoder: Decoder, vectors: torch.Tensor, gate: Gate | None) -> torch.Tensor:
        """The last layer's output, the gate read from a run of the last prompt token alone."""
        opening, first = 1.0, 0
        if gate is not None:
            stream = self.tokens[self.prompt - 1]
            for layer in decoder.layers[: gate.layer + 1]:
                stream = stream + torch.tanh(layer.linear(stream))
            opening, first = float(gate.strength(stream)), gate.layer + 1
        stream = self.tokens.clone()
        for number, layer in enumerate(decoder.layers):
            stream = stream + torch.tanh(layer.linear(stream))
            if number >= first:
                stream[self.prompt - 1 :] += self.alpha * opening * vectors[self.index, number]
        return stream


@torch.no_grad()
def forward(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    return torch.add(*decoder(tokens, torch.zeros_like(tokens)))


KINDS = st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 2), st.sampled_from([0.0, 0.3, 1.0]))


@trials(max_examples=60, deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=6), st.randoms(use_true_random=False), st.booleans())
def test_any_schedule_steers_each_answer_as_its_prompt_says(
    kinds: list[tuple[int, int, int, float]], random: Any, logistic: bool
) -> None:
    """Chunks, mixed batches, preemption with and without cached blocks, padding, other gates in one batch."""
    gates = [gate_at(G, mode="logistic") if logistic else gate_at(G), gate_at(2), None]
    requests, _, decoder = gated_requests(*gates)
    plain = Decoder()
    sequences = [Sequence(f"r{i}", *kind) for i, kind in enumerate(kinds)]
    expected = {one.name: one.by_hand(plain, vectors_of(3), gates[one.index]) for one in sequences}
    for one in sequences:
        requests.add(one.name, one.params)
    while left := [one for one in sequences if one.done < len(one.tokens)]:
        batch = random.sample(left, random.randint(1, len(left)))
        counts = [random.randint(1, len(one.tokens) - one.done) for one in batch]
        requests.step([one.name for one in batch], [one.done for one in batch], counts, [one.prompt for one in batch])
        rows = [one.tokens[one.done : one.done + n] for one, n in zip(batch, counts, strict=True)]
        padding = torch.full((random.randint(0, 3), WIDTH), float("nan"))
        found = forward(decoder, torch.cat([*rows, padding]))
        start = 0
        for one, n in zip(batch, counts, strict=True):
            wanted = expected[one.name][one.done : one.done + n]
            assert torch.allclose(found[start : start + n], wanted, atol=CLOSE), one.name
            start, one.done = start + n, one.done + n
            if one.done < len(one.tokens) and random.random() < 0.3:
                one.done = random.randint(0, one.done)  # preempted; what is before may be cached
        if random.random() < 0.2:  # an unrelated request comes and goes
            requests.add("other", batch[0].params)
            requests.remove(["other"])


def test_what_was_decided_outlives_preemption_and_slots_are_taken_back() -> None:
    requests, attachment, decoder = gated_requests(gate_at())
    assert attachment.gates is not None
    assert requests.slots is not None
    one = Sequence("a", 4, 8, 0, 0.5)
    requests.add("a", one.params)
    requests.step(["a"], [0], [4], [4])
    forward(decoder, one.tokens[:4])
    first = requests.slots.take()["a"][:2]
    attachment.gates.scorers[0].put(gate_at().bare().with_threshold(-1e9 if first[0] == 0 else 1e9))
    requests.add("a", one.params)  # as the second runner announces it after a preemption
    requests.step(["a"], [0], [6], [4])
    forward(decoder, one.tokens[:6])
    assert requests.slots.take()["a"][:2] == first
    free = len(requests.slots._free)
    requests.remove(["a"])
    assert requests.slots.take()["a"][:2] == first, "kept for a while"
    assert requests.slots.take() == {}
    assert len(requests.slots._free) == free + 1
    assert requests.slots.totals() == {"requests": 1, "openings": first[0], "out_of_distribution": 0}


def test_who_was_never_decided_is_steered() -> None:
    """Unannounced, beyond the capacity, or first seen while it answers: the gate fails closed, which is open."""
    closed = gate_at().bare().with_threshold(1e9)
    requests, _, decoder = gated_requests(closed)
    assert requests.slots is not None
    tokens = torch.randn(3, WIDTH)
    plain = forward(Decoder(), tokens)
    requests.step(["unannounced"], [0], [3], [3])
    assert not torch.equal(forward(decoder, tokens)[-1], plain[-1])
    requests.add("a", SimpleNamespace(extra_args=None))
    requests.step(["a"], [7], [3], [4])
    assert not torch.allclose(forward(decoder, tokens), plain)
    requests.slots._free.clear()
    requests.add("b", SimpleNamespace(extra_args=None))
    requests.step(["b"], [0], [3], [3])
    assert not torch.equal(forward(decoder, tokens)[-1], plain[-1])
    requests.remove(["b", "unannounced"])
    requests.step(["a"], [0], [3], [3])  # computed from its start, it is decided after all
    assert torch.equal(forward(decoder, tokens), plain)


def test_out_of_distribution_is_open_and_counted() -> None:
    gate = measuring(threshold=1e9, limit=1e-6)
    requests, _, decoder = gated_requests(gate)
    assert requests.slots is not None
    one = Sequence("a", 3, 1, 0, 0.5)
    requests.add("a", one.params)
    requests.step(["a"], [0], [4], [3])
    found = forward(decoder, one.tokens)
    assert torch.allclose(found, one.by_hand(Decoder(), vectors_of(), gate), atol=CLOSE)
    requests.remove(["a"])
    assert requests.slots.totals() == {"requests": 1, "openings": 1, "out_of_distribution": 1}
    (opening, score, distance_, far) = requests.slots.take()["a"]
    assert (opening, far) == (1, 1)
    assert score < 1e9
    assert distance_ > 1e-6


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_graphs_decide_and_remember(backend: str) -> None:
    """With another number of rows each time, as vLLM's graphs run."""
    requests, _, decoder = gated_requests(gate_at(), gate_at(2))
    torch._dynamo.reset()
    run = torch.compile(decoder, backend=backend, dynamic=True, fullgraph=True)
    sequences = [Sequence(str(i), 3 + i, 2, i % 2, 0.7) for i in range(4)]
    plain = Decoder()
    for one in sequences:
        requests.add(one.name, one.params)
    names, prompts = [one.name for one in sequences], [one.prompt for one in sequences]
    for computed, counts in ((0, prompts), (1, [1] * 4), (2, [1] * 4)):
        done = [0 if computed == 0 else one.prompt + computed - 1 for one in sequences]
        requests.step(names, done, counts, prompts)
        tokens = [one.tokens[d : d + n] for one, d, n in zip(sequences, done, counts, strict=True)]
        with torch.no_grad():
            found = torch.add(*run(torch.cat(tokens), torch.zeros(sum(counts), WIDTH))).split(counts)
        for one, d, rows in zip(sequences, done, found, strict=True):
            wanted = one.by_hand(plain, vectors_of(2), [gate_at(), gate_at(2)][one.index])[d : d + len(rows)]
            assert torch.allclose(rows, wanted, atol=CLOSE)
    torch._dynamo.reset()


# ---- the proof -----------------------------------------------------------------------------------------------------


def proven(*gates: Gate | None) -> tuple[Attachment, Any]:
    _, attachment, decoder = gated_requests(*gates)
    start = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))
    return attachment, lambda: forward(decoder, start)


def test_the_proof_passes_and_leaves_all_as_it_was() -> None:
    attachment, run = proven(measuring(limit=2.0), None, gate_at(2))
    prove(attachment, run)
    prove_gates(attachment, run)
    assert attachment.gates is not None
    assert attachment.intact
    assert (attachment.gates.decided == NOWHERE).all()
    assert (attachment.gates.slots == OPEN).all()
    attachment.gates.scorers[1].put(gate_at(2, threshold=0.5))
    assert not attachment.intact


def test_the_proof_misses_no_gate_that_does_not_decide() -> None:
    attachment, run = proven(gate_at())
    hooks = attachment.layers[G]._forward_hooks
    del hooks[list(hooks)[-1]]
    with pytest.raises(SteeringError, match="the gate at decoder layer 1 does not score that layer"):
        prove_gates(attachment, run)


def test_the_proof_misses_no_layer_that_does_not_obey() -> None:
    attachment, run = proven(gate_at())
    attachment.layers[3]._buffers["_sarsteer_strengths"] = attachment.strengths  # as if it knew of no gate
    with pytest.raises(SteeringError, match="is closed and the layers above steer as it decides"):
        prove_gates(attachment, run)


def test_the_proof_misses_no_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    attachment, run = proven(gate_at())
    assert attachment.gates is not None
    decide = attachment.gates.decide

    def forgetful(h: torch.Tensor, scorers: Any) -> None:
        attachment.gates.decided.copy_(attachment.gates.slots)  # type: ignore[union-attr]
        decide(h, scorers)

    monkeypatch.setattr(attachment.gates, "decide", forgetful)
    with pytest.raises(SteeringError, match="as it decided before"):
        prove_gates(attachment, run)


# ---- settings, keys, stages ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gated_file(steering: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    gated = steering.with_defaults(gate=True)
    return gated.save(tmp_path_factory.mktemp("gated") / "gated.safetensors")


def test_the_operator_decides_whether_to_gate(gated_file: Path, steering: sarsteer.Steering, tmp_path: Path) -> None:
    def made(file: Path, gate: str = "") -> settings.VectorSet:
        found = settings.from_environment({"SARSTEER_STEERING": str(file), "SARSTEER_GATE": gate})
        assert found is not None
        return found.sets[0]

    assert steering.gate is not None
    bare = steering.save(tmp_path / "bare.safetensors")
    assert made(gated_file).gate_layer == steering.gate.layer
    assert made(gated_file, "off").gate_layer is None
    assert made(bare).gate_layer is None
    assert made(bare, "on") == replace(made(gated_file), source=str(bare))
    assert made(bare).digest != made(gated_file).digest, "blocks that a gate decided are found by no one else"
    none = steering.with_gate(None).save(tmp_path / "none.safetensors")
    with pytest.raises(SteeringError, match=r"none\.safetensors: this steering has no gate"):
        made(none, "on")


def test_another_gate_has_other_block_keys(gated_file: Path, steering: sarsteer.Steering, tmp_path: Path) -> None:
    assert steering.gate is not None
    other = steering.with_gate(steering.gate.with_threshold(steering.gate.threshold - 1)).with_defaults(gate=True)
    files = [gated_file, other.save(tmp_path / "other.safetensors")]
    request = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=None), num_prompt_tokens=9)
    keys = []
    for file in files:
        found = settings.from_environment({"SARSTEER_STEERING": str(file)})
        assert found is not None
        keys.append(block_key(request, found))
    assert None not in keys
    assert keys[0] != keys[1]


def test_a_pipeline_stage_above_the_gates_is_refused() -> None:
    vectors = vectors_of()
    with pytest.raises(SteeringError, match="layer 1, which is in another pipeline stage than layer 3"):
        Attachment(Decoder(range(2, LAYERS)), vectors, 8, CPU, [gate_at()])
    Attachment(Decoder(range(1, LAYERS)), vectors, 8, CPU, [gate_at()])
    Attachment(Decoder(range(1)), vectors, 8, CPU, [gate_at()])


def test_slots_run_out_last() -> None:
    slots = RequestSlots(torch.ones(CAPACITY, 4))
    assert len(slots._free) == CAPACITY - 2
    assert {OPEN, NOWHERE}.isdisjoint(slots._free)
    assert np.all(np.array(slots.begin_step(["unknown"], [True])) == [[OPEN], [NOWHERE]])


# ---- workers -------------------------------------------------------------------------------------------------------


def test_an_engine_that_falls_idle_gives_the_slots_back() -> None:
    """Its last step has no token: the runner's states are told who finished, and no inputs are prepared."""
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


def test_a_dummy_batch_decides_for_no_request() -> None:
    """Data-parallel engines run one while another has work, through the same graphs and past the model runner."""
    requests, _, decoder = gated_requests(gate_at())
    assert requests.slots is not None
    worker = SteeredWorker.__new__(SteeredWorker)
    worker.requests = requests
    one = Sequence("a", 3, 2, 0, 0.5)
    requests.add("a", one.params)
    requests.step(["a"], [0], [3], [3])
    forward(decoder, one.tokens[:3])
    before = requests.slots.take()["a"][:2]
    worker._dummy_batch(lambda: forward(decoder, torch.randn(6, WIDTH)))
    assert requests.slots.take()["a"][:2] == before
    requests.step(["a"], [3], [2], [3])
    found = forward(decoder, one.tokens[3:])
    assert torch.allclose(found, one.by_hand(Decoder(), vectors_of(), gate_at())[3:], atol=CLOSE)


def test_a_stage_without_the_gate_counts_nothing() -> None:
    requests = SteeredRequests(configured(replace(one_set(), gate_layer=G)))
    requests.attach(Attachment(Decoder(range(1)), vectors_of(), 8, CPU, [gate_at()]))
    requests.add("a", SimpleNamespace(extra_args=None))
    requests.step(["a"], [0], [3], [3])
    requests.remove(["a"])
    assert requests.slots is None


def test_buffers_that_no_longer_hang_together_are_noticed() -> None:
    _, attachment, decoder = gated_requests(gate_at())
    assert attachment.intact
    decoder._apply(torch.clone)
    assert not attachment.intact
