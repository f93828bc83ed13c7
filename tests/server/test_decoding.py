"""Requests that join others while these are answered: each answer is the one that the request gets alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer.errors import SteeringError
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.server.decoding import Decoding, can_join, groups
from sarsteer.server.engine import Engine
from sarsteer.server.job import Failed, Finished, Job, Started
from sarsteer.server.policy import make_tenant
from sarsteer.server.slots import compact
from sarsteer.server.tenant import Tenant
from sarsteer.steering.hooks import DELTA
from sarsteer.steering.installation import Installation
from sarsteer.steering.strength import Strength
from tests.server.conftest import QUESTION

LENGTHS = (3, 17, 9, 24, 1, 12, 24)


@pytest.fixture(scope="module")
def engine(embedded: AudioLanguageModel, steering: sarsteer.Steering) -> Iterator[Engine]:
    engine = Engine(embedded, 3, lambda: None)
    engine.prove([tenant_of(steering, "gated"), tenant_of(steering, "strong")])
    yield engine
    engine.detach()


def tenant_of(steering: sarsteer.Steering, name: str) -> Tenant:
    return make_tenant(name, steering, "s", Strength(0.5, gate=True) if name == "gated" else Strength(0.2, gate=False))


@pytest.fixture(scope="module")
def conversations(test_pairs: Any) -> list[Any]:
    clips = [clip for pair in test_pairs[:3] for clip in (pair.harmful.audio, pair.safe.audio)]
    turns = [*sarsteer.user_turn(clips[0], QUESTION), {"role": "assistant", "content": "I am sorry."}]
    turns += sarsteer.user_turn(clips[3], QUESTION)
    return [*(sarsteer.user_turn(clip, QUESTION) for clip in clips), turns]


def jobs_of(tenant: Tenant, conversations: list[Any], **more: Any) -> list[tuple[Job, list[Any]]]:
    found = []
    for number, (conversation, length) in enumerate(zip(conversations, LENGTHS, strict=True)):
        events: list[Any] = []
        found.append((Job(tenant, conversation, length, events.append, seed=number, **more), events))
    return found


def seen(events: list[Any]) -> list[Any]:
    """Decision and answers."""
    decisions = [event.decision and event.decision.opening for event in events if isinstance(event, Started)]
    return [*decisions, *(event.text for event in events if isinstance(event, Finished))]


def one_by_one(engine: Engine, tenant: Tenant, conversations: list[Any], **more: Any) -> list[list[Any]]:
    jobs = jobs_of(tenant, conversations, **more)
    for job, _ in jobs:
        engine.answer([job])
    return [seen(events) for _, events in jobs]


def joining(engine: Engine, jobs: list[tuple[Job, list[Any]]]) -> list[list[Any]]:
    """Answer the jobs; each one but the first joins when a row is free."""
    waiting = [job for job, _ in jobs]

    def more(free: int) -> list[Job]:
        assert 0 < free <= engine.batch
        return [waiting.pop(0)] if waiting else []

    engine.answer([waiting.pop(0)], more)
    assert not waiting
    return [seen(events) for _, events in jobs]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("name", ["strong", "gated"])
def test_rows_that_join_get_the_answers_that_they_get_alone(
    engine: Engine, steering: sarsteer.Steering, conversations: list[Any], name: str, temperature: float
) -> None:
    assert engine.joins
    tenant = tenant_of(steering, name)
    expected = one_by_one(engine, tenant, conversations, temperature=temperature)
    if name == "gated":
        assert {one[0] for one in expected} == {0.0, 1.0}  # open and closed rows side by side
    assert joining(engine, jobs_of(tenant, conversations, temperature=temperature)) == expected


def test_the_loop_decodes_as_generate_does(
    engine: Engine, steering: sarsteer.Steering, conversations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = tenant_of(steering, "strong")
    for penalty in (1.0, 1.3):  # Qwen2-Audio's checkpoint penalizes repetition
        monkeypatch.setattr(engine.model.module.generation_config, "repetition_penalty", penalty)
        got = joining(engine, jobs_of(tenant, conversations))
        monkeypatch.setattr(engine, "joins", False)
        assert one_by_one(engine, tenant, conversations) == got
        monkeypatch.setattr(engine, "joins", True)


def test_other_ways_to_decode_are_left_to_generate(
    embedded: AudioLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_join(embedded)
    monkeypatch.setattr(embedded.module.generation_config, "no_repeat_ngram_size", 3)
    assert not can_join(embedded)


def test_memory_that_runs_out_when_a_row_joins_costs_no_answer(
    engine: Engine, steering: sarsteer.Steering, conversations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = tenant_of(steering, "gated")
    expected = one_by_one(engine, tenant, conversations)
    collate, calls = engine.model.collate, []

    def third_time(prompts: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise torch.OutOfMemoryError("a fault of this test")
        return collate(prompts)

    monkeypatch.setattr(engine.model, "collate", third_time)
    jobs = jobs_of(tenant, conversations)
    waiting = [job for job, _ in jobs]
    while waiting:  # after the fault, `answer` asks for no more jobs
        engine.answer([waiting.pop(0)], lambda free: [waiting.pop(0)] if waiting else [])
    assert [seen(events) for _, events in jobs] == expected
    assert not any(isinstance(event, Failed) for _, events in jobs for event in events)


def test_a_loop_whose_decode_step_is_not_steered_is_refused(
    engine: Engine, steering: sarsteer.Steering, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [tenant_of(steering, "gated"), tenant_of(steering, "strong")]
    decode = Decoding._decode

    def unhooked(self: Decoding) -> torch.Tensor:
        layer = self._model.decoder_layers[2]
        hook = layer.forward
        layer.forward = hook.forward
        try:
            return decode(self)
        finally:
            layer.forward = hook

    monkeypatch.setattr(Decoding, "_decode", unhooked)
    with pytest.raises(SteeringError, match="decoder layer 2"):
        engine.prove_again(tenants)
    monkeypatch.undo()
    engine.prove_again(tenants)


MIXES = {
    "no gate": [(0.2, False), (0.0, False), (0.5, False), (0.05, False)],  # 0 is undefended
    "gate": [(0.5, True), (0.0, True), (0.1, True), (0.3, True)],
}


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("mix", MIXES)
def test_rows_of_different_strengths_get_the_answers_that_they_get_alone(
    engine: Engine,
    steering: sarsteer.Steering,
    conversations: list[Any],
    mix: str,
    joins: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "joins", joins)
    strengths = [steering.resolve(Strength(alpha, gate=gate)) for alpha, gate in MIXES[mix]]
    # other vectors, too: half of each layer's, and none ablated
    strengths[0] = steering.resolve(Strength(0.4, k=0, layer_weights=(0.5,) * 8, gate=MIXES[mix][0][1]))
    tenants = [Tenant(str(number), one, steering, "s") for number, one in enumerate(strengths)]
    jobs = [
        jobs_of(tenants[number % len(tenants)], conversations)[number // 2] for number in range(2 * len(conversations))
    ]
    expected = []
    for job, _ in jobs:
        events: list[Any] = []
        engine.answer([Job(job.tenant, job.conversation, job.max_tokens, events.append)])
        expected.append([seen(events), [event.decision for event in events if isinstance(event, Started)]])
    assert len({str(one) for one in expected}) > len(conversations)  # strengths change answers
    if joins:
        joining(engine, jobs)
    else:
        engine.answer([job for job, _ in jobs])
    for (job, events), (answers, decisions) in zip(jobs, expected, strict=True):
        assert seen(events) == answers
        for event, decision in zip([one for one in events if isinstance(one, Started)], decisions, strict=True):
            assert (event.decision is None) == (decision is None)
            if decision is not None:
                assert event.decision.strength == job.tenant.strength.alpha * event.decision.opening
                assert event.decision.strength == decision.strength
    handle = engine._handle
    assert handle is not None
    assert all(getattr(layer, DELTA).ndim == 1 for layer in engine.model.decoder_layers)
    assert torch.equal(
        torch.stack([getattr(layer, DELTA) for layer in engine.model.decoder_layers]), handle.strength.deltas
    )


def test_rows_that_are_not_steered_by_their_own_vectors_are_refused(
    engine: Engine, steering: sarsteer.Steering, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Installation.write

    def swapped(self: Installation, deltas: torch.Tensor) -> None:
        write(self, deltas if deltas.ndim == 2 else deltas.flip(1))

    tenants = [tenant_of(steering, "gated"), tenant_of(steering, "strong")]
    monkeypatch.setattr(Installation, "write", swapped)
    with pytest.raises(SteeringError, match="did not steer exactly"):
        engine.prove_again(tenants)
    monkeypatch.undo()
    engine.prove_again(tenants)


@pytest.mark.parametrize("pattern", range(32))
def test_compact_keeps_what_is_not_done_and_moves_little(pattern: int) -> None:
    done = [bool(pattern >> bit & 1) for bit in range(5)]
    kept = compact(done)
    assert sorted(kept) == [i for i in range(5) if not done[i]]
    for place, row in enumerate(kept):  # a row stays, or moves from the end into a gap
        assert row == place or (row >= len(kept) and done[place])


def test_a_prefill_takes_prompts_of_similar_length(engine: Engine, conversations: list[Any]) -> None:
    prompts = engine.model.prepare(conversations)
    found = groups(prompts, engine.model.device)
    assert sorted(i for group in found for i in group) == list(range(len(prompts)))
    lengths = [[len(prompts[i].input_ids) for i in group] for group in found]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(one) == 1 or len(one) * max(one) <= 512 for one in lengths)


def test_no_row_joins_if_the_vectors_are_not_the_tenants(
    engine: Engine, steering: sarsteer.Steering, conversations: list[Any]
) -> None:
    tenant = tenant_of(steering, "strong")
    (first, _), (second, events), *_ = jobs_of(tenant, conversations)
    waiting = [second]

    def more(free: int) -> list[Job]:
        getattr(engine.model.decoder_layers[3], DELTA).zero_()  # something else changes the model
        return [waiting.pop()] if waiting else []

    with pytest.raises(SteeringError, match="not the tenant's"):
        engine.answer([first], more)
    assert events == []
    engine.prove_again([tenant_of(steering, "gated"), tenant])
