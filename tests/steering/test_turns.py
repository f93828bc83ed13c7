"""Threads that answer with a steered model, and threads that change its steering."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import transformers as T

from sarsteer import AudioLanguageModel
from sarsteer.errors import SteeringError, SteeringWarning
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.handle import SteeringHandle, attach
from sarsteer.steering.strength import ResolvedStrength
from sarsteer.steering.turns import Turns
from tests.steering.test_artifact import small_steering
from tests.support.tiny import conversation, random_vectors, tiny_qwen2_audio

ALPHA = 0.7
TURN = conversation(1, 0.3)
LAYER = 1


@pytest.fixture
def model() -> AudioLanguageModel:
    return tiny_qwen2_audio(seed=0)


@pytest.fixture
def gate(model: AudioLanguageModel) -> Gate:
    return Gate(LAYER, torch.ones(model.hidden_size), 0.0, threshold=-1e6)


@pytest.fixture(params=["ungated", "gated"])
def handle(request: pytest.FixtureRequest, model: AudioLanguageModel, gate: Gate) -> Iterator[SteeringHandle]:
    strength = ResolvedStrength(random_vectors(model), ALPHA, gate if request.param == "gated" else None)
    with attach(model.module, model.decoder_layers, strength) as attached:
        yield attached


class Paused:
    """A streamer that stops an answer after its first token until it is released."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self.tokens = 0

    def put(self, _value: object) -> None:
        self.tokens += 1
        if self.tokens == 2:  # the prompt comes first
            self.reached.set()
            assert self.released.wait(60)

    def end(self) -> None:
        pass


def answer(model: AudioLanguageModel, streamer: object = None) -> list[int]:
    inputs = model.collate(model.prepare([TURN]))
    out = model.module.generate(**inputs, max_new_tokens=8, do_sample=False, streamer=streamer)
    return [int(token) for token in out[0]]


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # compared by the test
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize(
    "change",
    [
        lambda handle: setattr(handle, "alpha", 0.0),
        lambda handle: handle.apply(handle.strength.with_vectors(torch.zeros_like(handle.vectors))),
        lambda handle: handle.apply(handle.strength.with_gate(None)),
        lambda handle: handle.suspend(),
        lambda handle: handle.remove(),
    ],
    ids=["alpha", "vectors", "gate", "suspend", "remove"],
)
def test_5_a_change_waits_for_a_running_answer(
    model: AudioLanguageModel, handle: SteeringHandle, change: Callable[[SteeringHandle], object]
) -> None:
    expected = answer(model)
    paused = Paused()
    answering, tokens = in_thread(lambda: answer(model, paused))
    assert paused.reached.wait(60)
    changing, done = in_thread(lambda: change(handle))
    changing.join(0.2)
    assert changing.is_alive(), "the change must wait"
    paused.released.set()
    answering.join(60)
    changing.join(60)
    assert tokens == [expected], "the running answer is steered by one strength to its end"
    assert done == [None]


def test_5_reading_activations_does_not_overwrite_a_running_answer_s_decision(
    model: AudioLanguageModel, gate: Gate
) -> None:
    with attach(model.module, model.decoder_layers, ResolvedStrength(random_vectors(model), ALPHA, gate)):
        expected = answer(model)
        paused = Paused()
        answering, tokens = in_thread(lambda: answer(model, paused))
        assert paused.reached.wait(60)
        with pytest.raises(SteeringError, match="is answering another request"):
            model.last_token_activations([conversation(2)])
        with pytest.raises(SteeringError, match="is answering another request"):
            model.module(torch.tensor([[5, 6, 7]]))
        paused.released.set()
        answering.join(60)
    assert tokens == [expected]


def test_5_the_answering_thread_cannot_change_the_steering(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    errors: list[Exception] = []

    class Changing(Paused):
        def put(self, _value: object) -> None:
            try:
                handle.alpha = 0.0
            except SteeringError as error:
                errors.append(error)

    expected = answer(model)
    assert answer(model, Changing()) == expected
    assert errors
    assert "by the thread that is answering" in str(errors[0])


def test_leaving_an_on_block_waits_for_a_stream(model: AudioLanguageModel) -> None:
    steering = small_steering(model)
    with steering.on(model, alpha=0.5):
        expected = "".join(model.stream(TURN, 12))
    with steering.on(model, alpha=0.5):
        stream = model.stream(TURN, 12)
        first = next(stream)
    assert first + "".join(stream) == expected


def test_12_closing_a_stream_stops_the_model(model: AudioLanguageModel) -> None:
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    hook = model.decoder_layers[0].register_forward_hook(count)
    stream = model.stream(TURN, 400)
    next(stream)
    stream.close()
    hook.remove()
    assert steps < 400


def test_changes_of_several_threads_take_turns() -> None:
    turns, inside, most = Turns(), 0, 0

    def change() -> None:
        nonlocal inside, most
        for _ in range(50):
            with turns.change():
                inside += 1
                most = max(most, inside)
                with turns.answer(alone=True):  # as a proof does
                    pass
                inside -= 1

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1


# ---- other bypasses of the audit -----------------------------------------------------------------------------------


def test_6_an_inner_module_that_is_steered_already_is_refused(
    model: AudioLanguageModel, handle: SteeringHandle
) -> None:
    inner = model.module.model.language_model
    expected = answer(model)
    with pytest.raises(SteeringError, match="already steered"):
        attach(inner, model.decoder_layers, ResolvedStrength(random_vectors(model), 0.1))
    assert answer(model) == expected


def test_6_a_model_that_is_cast_after_attaching_is_refused(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    model.module.to(torch.bfloat16)
    with pytest.raises(SteeringError, match="was cast to"):
        answer(model)


def test_6_a_one_token_prompt_by_bare_forward_is_steered_after_a_closed_request(
    model: AudioLanguageModel, gate: Gate
) -> None:
    token = torch.tensor([[5]])
    closed = Gate(LAYER, gate.weight, 0.0, threshold=1e6)
    strength = ResolvedStrength(random_vectors(model), ALPHA, closed)
    with torch.no_grad():
        plain = model.module(token).logits
    with attach(model.module, model.decoder_layers, strength) as handle, torch.no_grad():
        first = model.module(token).logits
        answer(model)
        assert handle.decisions[0].opening == 0.0
        cache = T.DynamicCache(config=model.module.config.get_text_config())
        assert torch.equal(model.module(token).logits, first)
        answer(model)
        assert torch.equal(model.module(token, past_key_values=cache, use_cache=True).logits, first)
    assert not torch.equal(first, plain)


def test_6_alpha_that_overflows_is_refused(model: AudioLanguageModel, handle: SteeringHandle) -> None:
    for alpha in (1e39, -1e39):
        with pytest.raises(SteeringError, match="overflows float32"):
            handle.alpha = alpha
    assert handle.alpha == ALPHA


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 0.0}, "alpha is 0"),
        ({"alpha": -0.1}, "steers away from refusal"),
        ({"alpha": 0.1, "k": 1, "lambda_": -1.0}, "a negative lambda adds what safe requests share"),
        ({"alpha": 0.1, "layer_weights": (0.0,) * 4}, "are zero"),
    ],
)
def test_6_a_steering_that_does_not_defend_is_a_warning(
    model: AudioLanguageModel, options: dict[str, object], says: str
) -> None:
    with pytest.warns(SteeringWarning, match=says):
        small_steering(model).attach(model, **options).remove()  # type: ignore[arg-type]
