"""Gates without vLLM: whatever the schedule, each answer is steered as its last prompt token decides.

The decoder has no attention, so a sequence can be computed by hand, token by token.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.log import read_scores
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.decision_log import DecisionLog
from tests.support.vllm_parts import (
    CLOSE,
    LAYERS,
    WIDTH,
    Decoder,
    Sequence,
    forward,
    gate_at,
    gate_of_layers,
    gate_with_distance,
    gated_requests,
    random_vectors,
)

CPU = torch.device("cpu")
KINDS = st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0]))


@pytest.mark.slow
@trials(max_examples=60, deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=6), st.randoms(use_true_random=False), st.booleans())
def test_in_any_schedule_the_prompt_decides_how_its_answer_is_steered(
    kinds: list[tuple[int, int, int, float]], random: Any, logistic: bool
) -> None:
    """Chunks, mixed batches, preemption with and without cached blocks, padding, other gates in seq batch."""
    gates = [gate_at(mode="logistic" if logistic else "hard"), gate_of_layers(0, 1, 2), None, gate_at(mode="shadow")]
    requests, _, decoder = gated_requests(*gates)
    plain = Decoder()
    sequences = [Sequence(f"r{i}", *kind) for i, kind in enumerate(kinds)]
    expected = {seq.name: seq.expected(plain, random_vectors(4), gates[seq.set_index]) for seq in sequences}
    for seq in sequences:
        requests.add(seq.name, seq.params)
    while left := [seq for seq in sequences if seq.done < len(seq.tokens)]:
        batch = random.sample(left, random.randint(1, len(left)))
        counts = [random.randint(1, len(seq.tokens) - seq.done) for seq in batch]
        requests.step([seq.name for seq in batch], [seq.done for seq in batch], counts, [seq.prompt for seq in batch])
        rows = [seq.tokens[seq.done : seq.done + n] for seq, n in zip(batch, counts, strict=True)]
        padding = torch.full((random.randint(0, 3), WIDTH), float("nan"))
        states = forward(decoder, torch.cat([*rows, padding]))
        start = 0
        for seq, n in zip(batch, counts, strict=True):
            expected_rows = expected[seq.name][seq.done : seq.done + n]
            assert torch.allclose(states[start : start + n], expected_rows, atol=CLOSE), seq.name
            start, seq.done = start + n, seq.done + n
            if seq.done < len(seq.tokens) and random.random() < 0.3:
                seq.done = random.randint(0, seq.done)  # preempted; earlier rows may be cached
        if random.random() < 0.2:  # an unrelated request comes and goes
            requests.add("other", batch[0].params)
            requests.remove(["other"])


def test_requests_without_a_decision_are_steered() -> None:
    """Unannounced, beyond the capacity, or first seen while answering: the request is steered."""
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
    requests.step(["a"], [0], [3], [3])  # computed from the start, it is decided
    assert torch.equal(forward(decoder, tokens), plain)


def test_out_of_distribution_requests_are_steered_and_counted() -> None:
    gate = gate_with_distance(threshold=1e9, limit=1e-6)
    requests, _, decoder = gated_requests(gate)
    assert requests.slots is not None
    sequence = Sequence("a", 3, 1, 0, 0.5)
    requests.add("a", sequence.params)
    requests.step(["a"], [0], [4], [3])
    states = forward(decoder, sequence.tokens)
    assert torch.allclose(states, sequence.expected(Decoder(), random_vectors(), gate), atol=CLOSE)
    requests.remove(["a"])
    assert requests.slots.totals() == {"requests": 1, "openings": 1, "out_of_distribution": 1}
    (opening, score, distance_, far) = requests.slots.take()["a"]
    assert (opening, far) == (1, 1)
    assert score < 1e9
    assert distance_ > 1e-6


@pytest.mark.parametrize(
    "backend",
    ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],
)
def test_compiled_graphs_decide_and_remember(backend: str) -> None:
    """With another number of rows in each step, as in vLLM's graphs."""
    gates = [gate_at(), gate_of_layers(0, 2)]
    requests, _, decoder = gated_requests(*gates)
    torch._dynamo.reset()
    run = torch.compile(decoder, backend=backend, dynamic=True, fullgraph=True)
    sequences = [Sequence(str(i), 3 + i, 2, i % 2, 0.7) for i in range(4)]
    plain = Decoder()
    for seq in sequences:
        requests.add(seq.name, seq.params)
    names, prompts = [seq.name for seq in sequences], [seq.prompt for seq in sequences]
    for computed, counts in ((0, prompts), (1, [1] * 4), (2, [1] * 4)):
        done = [0 if computed == 0 else seq.prompt + computed - 1 for seq in sequences]
        requests.step(names, done, counts, prompts)
        tokens = [seq.tokens[d : d + n] for seq, d, n in zip(sequences, done, counts, strict=True)]
        with torch.no_grad():
            states = torch.add(*run(torch.cat(tokens), torch.zeros(sum(counts), WIDTH))).split(counts)
        for seq, d, rows in zip(sequences, done, states, strict=True):
            expected_rows = seq.expected(plain, random_vectors(2), gates[seq.set_index])[d : d + len(rows)]
            assert torch.allclose(rows, expected_rows, atol=CLOSE)
    torch._dynamo.reset()


def test_a_pipeline_stage_above_the_gates_is_refused() -> None:
    vectors = random_vectors()
    with pytest.raises(SteeringError, match="layer 1, which is in another pipeline stage than layer 3"):
        Attachment(Decoder(range(2, LAYERS)), vectors, 8, CPU, [gate_at()])
    Attachment(Decoder(range(1, LAYERS)), vectors, 8, CPU, [gate_at()])
    Attachment(Decoder(range(1)), vectors, 8, CPU, [gate_at()])
    with pytest.raises(SteeringError, match="reads decoder layer 0, which is in another pipeline stage than layer 1"):
        Attachment(Decoder(range(1, 2)), vectors, 8, CPU, [gate_of_layers(0, 1)])


def test_shadow_mode_decides_and_steers_nothing(tmp_path: Path) -> None:
    requests, _, decoder = gated_requests(gate_at(threshold=-1e9, mode="shadow"))
    assert requests.slots is not None
    requests.log = DecisionLog(tmp_path / "log.jsonl")
    sequence = Sequence("a", 3, 2, 0, 1.0)
    requests.add("a", sequence.params)
    requests.step(["a"], [0], [5], [3])
    assert torch.equal(forward(decoder, sequence.tokens), forward(Decoder(), sequence.tokens))
    requests.remove(["a"])
    assert requests.slots.take()["a"][0] == 1, "the gate would have opened"
    requests.log.flush()
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    (row,) = read_scores(tmp_path / "log.jsonl")
    assert (line["id"], line["set"], line["opening"], line["distance"], row.distance) == ("a", "0", 1.0, None, None)
    wanted = sequence.score(Decoder(), gate_at())
    assert row.score == pytest.approx(wanted, abs=CLOSE)


def test_buffers_that_are_no_longer_shared_are_detected() -> None:
    _, attachment, decoder = gated_requests(gate_at())
    assert attachment.intact
    decoder._apply(torch.clone)
    assert not attachment.intact
