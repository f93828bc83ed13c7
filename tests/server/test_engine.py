"""The engine and the scheduler in this process: faults, cancelled requests, turns between tenants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.server.engine import Engine
from sarsteer.server.errors import ApiError
from sarsteer.server.job import Failed, Finished, Job, Piece, Started
from sarsteer.server.limits import Limits
from sarsteer.server.policy import make_tenant
from sarsteer.server.scheduler import Scheduler
from sarsteer.server.tenant import Tenant
from sarsteer.steering.hooks import DELTA
from sarsteer.steering.strength import Strength
from tests.server.conftest import QUESTION, TOKENS


@pytest.fixture(scope="module")
def tenants(steering: sarsteer.Steering) -> dict[str, Tenant]:
    return {
        "strong": make_tenant("strong", steering, "s", Strength(0.2, gate=False)),
        "weak": make_tenant("weak", steering, "s", Strength(0.05, gate=False)),
        "gated": make_tenant("gated", steering, "s", Strength(0.5, gate=True)),
    }


@pytest.fixture
def engine(embedded: AudioLanguageModel, tenants: dict[str, Tenant]) -> Iterator[Engine]:
    engine = Engine(embedded, 8, lambda: None)
    engine.prove(list(tenants.values()))
    yield engine
    engine.detach()


@pytest.fixture(scope="module")
def conversations(test_pairs: Any) -> list[Any]:
    clips = [clip for pair in test_pairs[:3] for clip in (pair.harmful.audio, pair.safe.audio)]
    return [sarsteer.user_turn(clip, QUESTION) for clip in clips]


def job(tenant: Tenant, conversation: Any, **more: Any) -> tuple[Job, list[Any]]:
    events: list[Any] = []
    return Job(tenant, conversation, TOKENS, events.append, **more), events


def texts(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, Finished)]


def alone(engine: Engine, tenant: Tenant, conversations: list[Any]) -> list[str]:
    answers = []
    for conversation in conversations:
        one, events = job(tenant, conversation)
        engine.answer([one])
        answers += texts(events)
    return answers


def test_events_come_in_order(engine: Engine, tenants: dict[str, Tenant], conversations: list[Any]) -> None:
    one, events = job(tenants["gated"], conversations[0], stream=True, n=2)
    engine.answer([one])
    assert isinstance(events[0], Started)
    assert events[0].decision is not None
    for index in (0, 1):
        pieces = [event.text for event in events if isinstance(event, Piece) and event.index == index]
        whole = [event.text for event in events if isinstance(event, Finished) and event.index == index]
        assert ["".join(pieces)] == whole


def test_a_cancelled_request_stops_at_its_next_token(
    engine: Engine, tenants: dict[str, Tenant], conversations: list[Any]
) -> None:
    one, events = job(tenants["weak"], conversations[1], stream=True)
    other, others = job(tenants["weak"], conversations[3])

    def leave(event: Any) -> None:
        events.append(event)
        one.cancelled = isinstance(event, Piece) or one.cancelled

    one.notify = leave
    engine.answer([one, other])
    assert [type(event) for event in events] == [Started, Piece]
    assert texts(others) == alone(engine, tenants["weak"], [conversations[3]])


def test_when_memory_runs_out_halves_are_answered(
    engine: Engine, tenants: dict[str, Tenant], conversations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, tenants["strong"], conversations)
    collate = engine.model.collate

    def collate_two(prompts: Any) -> Any:
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("a fault of this test")
        return collate(prompts)

    monkeypatch.setattr(engine.model, "collate", collate_two)
    jobs = [job(tenants["strong"], conversation) for conversation in conversations]
    engine.answer([one for one, _ in jobs])
    assert [texts(events) for _, events in jobs] == [[text] for text in expected]
    large, events = job(tenants["strong"], conversations[0], n=3)
    engine.answer([large])
    assert texts(events) == [expected[0]] * 3

    def never(prompts: Any) -> Any:
        raise torch.OutOfMemoryError("a fault of this test")

    monkeypatch.setattr(engine.model, "collate", never)
    failing, events = job(tenants["strong"], conversations[0])
    engine.answer([failing])
    assert isinstance(events[0].error, ApiError)
    assert events[0].error.status == 503


def test_a_conversation_that_does_not_fit_fails_alone(
    engine: Engine, tenants: dict[str, Tenant], conversations: list[Any]
) -> None:
    long = [{"role": "user", "content": [{"type": "text", "text": "word " * 50_000}]}]
    bad, failed = job(tenants["strong"], long)
    good, events = job(tenants["strong"], conversations[0])
    engine.answer([bad, good])
    assert failed[0].error.code == "context_length_exceeded"
    assert texts(events) == alone(engine, tenants["strong"], conversations[:1])


def test_nothing_is_answered_if_the_vectors_are_not_the_tenants(
    engine: Engine, tenants: dict[str, Tenant], conversations: list[Any]
) -> None:
    expected = alone(engine, tenants["strong"], conversations[:1])
    getattr(engine.model.decoder_layers[3], DELTA).zero_()  # something else changed the model
    one, events = job(tenants["strong"], conversations[0])
    with pytest.raises(SteeringError, match="nothing was answered"):
        engine.answer([one])
    assert events == []
    engine.prove_again(list(tenants.values()))
    assert alone(engine, tenants["strong"], conversations[:1]) == expected
    engine.detach()  # removed behind the engine's back
    assert alone(engine, tenants["strong"], conversations[:1]) == expected


def test_the_file_of_another_model_is_refused(
    tiny: AudioLanguageModel, embedded: AudioLanguageModel, tenants: dict[str, Tenant]
) -> None:
    with pytest.raises(ArtifactError, match="calibrate this model"):
        Engine(tiny, 8, lambda: None).prove(list(tenants.values()))
    assert not tiny.steered


# ---- the scheduler ---------------------------------------------------------------------------------------------------


class NoOutbox:
    def flush(self) -> None:
        return


class Recorder:
    """An engine that records its batches; the first one waits until the test lets it go."""

    batch = 4
    joins = False

    def __init__(self) -> None:
        self.batches: list[list[Job]] = []
        self.go = threading.Event()

    def key(self, tenant: Tenant) -> Any:
        return tenant.strength_key

    def answer(self, jobs: list[Job], more: Any = None) -> None:
        self.batches.append(jobs)
        self.go.wait(60)


def scheduled(recorder: Any, limits: Limits, tenants: dict[str, Tenant]) -> Scheduler:
    scheduler = Scheduler(lambda: recorder, limits, NoOutbox(), lambda error: None)  # type: ignore[arg-type]
    scheduler.proven = tuple(tenants.values())
    scheduler.start()
    for _ in range(1000):
        if scheduler.ready:
            return scheduler
        time.sleep(0.01)
    pytest.fail("never ready")


def test_tenants_take_turns_and_the_queue_is_bounded(tenants: dict[str, Tenant]) -> None:
    recorder = Recorder()
    scheduler = scheduled(recorder, Limits(batch=4, queue=12), tenants)
    try:
        first, _ = job(tenants["weak"], [])
        scheduler.submit(first, scheduler.reserve(tenants["weak"]))
        while not recorder.batches:
            time.sleep(0.01)
        jobs = [job(tenants["strong"], [])[0] for _ in range(4)]
        places = [scheduler.reserve(tenants["strong"]) for _ in jobs]
        with pytest.raises(ApiError) as caught:  # this tenant's share of 12 places between 3
            scheduler.reserve(tenants["strong"])
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        for one, place in zip(jobs, places, strict=True):
            scheduler.submit(one, place)
        late = [job(tenants["weak"], [])[0] for _ in range(2)]
        for one in late:
            scheduler.submit(one, scheduler.reserve(tenants["weak"]))
        gone = job(tenants["strong"], [])[0]
        scheduler.cancel(jobs[3])  # its place is free at once
        scheduler.submit(gone, scheduler.reserve(tenants["strong"]))
        recorder.go.set()
        while sum(map(len, recorder.batches)) < 7:
            time.sleep(0.01)
        assert recorder.batches == [[first], late, [*jobs[:3], gone]]
        assert scheduler.queued == 0
    finally:
        recorder.go.set()
        scheduler.stop()
    with pytest.raises(ApiError, match="shutting down"):
        scheduler.reserve(tenants["weak"])


def test_requests_join_until_another_tenant_is_steered_otherwise(tenants: dict[str, Tenant]) -> None:
    class Joining(Recorder):
        joins = True

        def answer(self, jobs: list[Job], more: Any = None) -> None:
            super().answer(jobs)
            while joined := more(2):
                self.batches.append(joined)

    recorder = Joining()
    scheduler = scheduled(recorder, Limits(batch=4, queue=24), tenants)

    def submit(name: str, **settings: Any) -> Job:
        one, _ = job(tenants[name], [], **settings)
        scheduler.submit(one, scheduler.reserve(tenants[name]))
        return one

    try:
        first = submit("weak")
        while not recorder.batches:
            time.sleep(0.01)
        same = [submit("weak") for _ in range(3)]
        recorder.go.set()
        while sum(map(len, recorder.batches)) < 4:
            time.sleep(0.01)
        assert recorder.batches == [[first], same[:2], same[2:]]
        recorder.batches.clear()
        recorder.go.clear()
        first = submit("weak")
        while not recorder.batches:
            time.sleep(0.01)
        large = submit("weak", n=3)  # does not fit into two rows: nothing overtakes it
        small, other = submit("weak"), submit("strong")
        recorder.go.set()
        while sum(map(len, recorder.batches)) < 4:
            time.sleep(0.01)
        assert recorder.batches == [[first], [large, small], [other]]
    finally:
        recorder.go.set()
        scheduler.stop()


def test_tenants_with_one_gate_share_batches(tenants: dict[str, Tenant]) -> None:
    class Mixing(Recorder):
        def key(self, tenant: Tenant) -> Any:
            return tenant.gate_key

    recorder = Mixing()
    scheduler = scheduled(recorder, Limits(batch=4, queue=24), tenants)
    try:
        jobs = {}
        for number, name in enumerate(("weak", "weak", "strong", "gated", "strong")):
            jobs[number], _ = job(tenants[name], [])
            scheduler.submit(jobs[number], scheduler.reserve(tenants[name]))
            while not recorder.batches:
                time.sleep(0.01)
        recorder.go.set()
        while sum(map(len, recorder.batches)) < 5:
            time.sleep(0.01)
        assert recorder.batches == [[jobs[0]], [jobs[1], jobs[2], jobs[4]], [jobs[3]]]
    finally:
        recorder.go.set()
        scheduler.stop()


def test_a_server_that_cannot_load_answers_nothing(tenants: dict[str, Tenant]) -> None:
    errors: list[Exception] = []

    def load() -> Any:
        raise ArtifactError("another model")

    scheduler = Scheduler(load, Limits(), NoOutbox(), errors.append)  # type: ignore[arg-type]
    with pytest.raises(ApiError, match="being loaded"):
        scheduler.reserve(tenants["weak"])
    scheduler.start()
    while not errors:
        time.sleep(0.01)
    assert not scheduler.ready
    with pytest.raises(ApiError, match="could not be loaded"):
        scheduler.reserve(tenants["weak"])


def test_steering_that_fails_for_good_stops_the_server(tenants: dict[str, Tenant]) -> None:
    class Failing(Recorder):
        def answer(self, jobs: list[Job], more: Any = None) -> None:
            raise SteeringError("not steered")

        def prove_again(self, tenants: Any) -> None:
            raise SteeringError("still not steered")

    failing = Failing()
    scheduler = scheduled(failing, Limits(), tenants)
    one, events = job(tenants["weak"], [])
    scheduler.submit(one, scheduler.reserve(tenants["weak"]))
    while scheduler.ready:
        time.sleep(0.01)
    assert [type(event) for event in events] == [Failed]
    with pytest.raises(ApiError, match="no longer be steered"):
        scheduler.reserve(tenants["weak"])


def test_the_openapi_document_is_complete(folder: Path) -> None:
    from sarsteer.server.app import create_app
    from sarsteer.server.policy import read_policy
    from sarsteer.server.service import ServerSettings, Service

    policy = read_policy(folder / "policy.yaml")
    settings = ServerSettings("m", lambda: pytest.fail("nothing is loaded"), lambda: policy)
    document = create_app(Service(settings, policy)).openapi()
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert text.count(f'"{name}"') >= 1
    assert all(f'"{ref}"' in text for ref in ("ChatRequest", "ChatCompletion", "Error"))
