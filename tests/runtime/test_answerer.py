"""One model under many defenses: steering is changed in place, errors concern one request, guards fail closed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.defenses import DEFENSES, UNDEFENDED, BuiltDefense, DefenseContext, build_defense
from sarsteer.defenses.rewrite import PromptRewrite
from sarsteer.errors import MessageError, SteeringError
from sarsteer.prompts import GUARD_REFUSAL
from sarsteer.runtime.answerer import Answerer, Reply
from sarsteer.runtime.memory import is_out_of_memory
from sarsteer.steering.strength import Strength


def test_steering_is_attached_once_and_leaves_no_trace(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sarsteer.steering import handle

    proofs: list[int] = []
    prove = handle.prove
    monkeypatch.setattr(handle, "prove", lambda *given: proofs.append(1) or prove(*given))
    turns = [test_pairs[0].harmful.turn(steering.metadata["instruction"])]
    answerer = Answerer(embedded)
    context = DefenseContext(embedded, steering=steering, strength=Strength(alpha=0.3))
    plain = embedded.generate(turns, 24)
    for spec in ("sarsteer", "none", "refusal-steering", "mean-ablation", "random:seed=1", "reversed", "none"):
        (reply,) = answerer.answer(build_defense(DEFENSES.parse(spec), context), turns, 24)
        if spec == "none":
            assert reply == Reply(plain[0])
    assert len(proofs) == 1
    answerer.close()
    assert not embedded.steered
    assert embedded.generate(turns, 24) == plain


def test_a_guard_that_cannot_be_read_stops_the_request(
    embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    from tests.support.openai_server import KEY, running

    with running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        defense = build_defense(DEFENSES.parse("guard:rubric:openai/gpt"), DefenseContext(embedded))
        (reply,) = Answerer(embedded).answer(defense, [test_pairs[0].safe.turn("Answer.")], 16)
    assert isinstance(reply, Reply)
    assert reply.text == GUARD_REFUSAL
    assert reply.details["stopped"]
    assert reply.details["transcript"]


def test_what_a_guard_lets_through_is_still_defended(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs
) -> None:
    context = DefenseContext(embedded, steering=steering, strength=Strength(alpha=0.3))
    steered = build_defense(DEFENSES.parse("sarsteer"), context)
    guard = build_defense(DEFENSES.parse("guard:embedded"), context).guard
    both = BuiltDefense({"kind": "both"}, strength=steered.strength, guard=guard)
    turns = [item.turn(steering.metadata["instruction"]) for item in (test_pairs[0].harmful, test_pairs[0].safe)]
    answerer = Answerer(embedded)
    replies: list[Any] = answerer.answer(both, turns, 24)
    answerer.close()
    with steering.on(embedded, alpha=0.3):
        expected = embedded.generate(turns[1:], 24)
    assert [reply.text for reply in replies] == [GUARD_REFUSAL, *expected]
    assert replies[1].details["transcript"] == test_pairs[0].safe.question, "transcribed without steering"


class Scripted:
    """A model that fails as scripted, and else answers with the number of conversations in the batch."""

    def __init__(self, fail: Any) -> None:
        self.fail = fail
        self.batches: list[int] = []

    def generate(self, conversations: list[Any], max_new_tokens: int, **_: Any) -> list[str]:
        self.batches.append(len(conversations))
        self.fail(conversations)
        return ["answer"] * len(conversations)


def conversations(n: int) -> list[Any]:
    return [[{"role": "user", "content": str(i)}] for i in range(n)]


def cpu_out_of_memory() -> RuntimeError:
    try:
        torch.empty(2**62, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("the machine has too much memory")


def test_a_lack_of_memory_splits_the_batch() -> None:
    def fail(batch: list[Any]) -> None:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = Scripted(fail)
    replies = Answerer(model).answer(UNDEFENDED, conversations(7))  # type: ignore[arg-type]
    assert replies == [Reply("answer")] * 7
    assert max(model.batches[1:]) < 7


def test_only_a_lack_of_memory_is_a_lack_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(cpu_out_of_memory())
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_other_errors_of_torch_are_not_swallowed() -> None:
    def fail(_: list[Any]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = Scripted(fail)
    with pytest.raises(RuntimeError, match="mat1"):
        Answerer(model).answer(UNDEFENDED, conversations(4))  # type: ignore[arg-type]
    assert model.batches == [4]


def test_an_error_concerns_one_request_and_names_no_position() -> None:
    def fail(batch: list[Any]) -> None:
        for index, conversation in enumerate(batch):
            if conversation[0]["content"] == "2":
                raise MessageError("is too long", place=f"conversation {index}", index=index)

    replies = Answerer(Scripted(fail)).answer(UNDEFENDED, conversations(5))  # type: ignore[arg-type]
    assert [reply for i, reply in enumerate(replies) if i != 2] == [Reply("answer")] * 4
    assert isinstance(replies[2], MessageError)
    assert str(replies[2]) == "is too long"


def test_a_steering_error_is_never_an_answer() -> None:
    def fail(_: list[Any]) -> None:
        raise SteeringError("the hooks were skipped")

    with pytest.raises(SteeringError):
        Answerer(Scripted(fail)).answer(UNDEFENDED, conversations(2))  # type: ignore[arg-type]


def test_a_failed_change_of_steering_leaves_the_previous_one(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, test_pairs: Pairs
) -> None:
    context = DefenseContext(embedded, steering=steering, strength=Strength(alpha=0.3, gate=False))
    good = build_defense(DEFENSES.parse("sarsteer"), context)
    assert good.strength is not None
    bad = BuiltDefense({"kind": "bad"}, strength=good.strength.with_vectors(good.strength.vectors[:, :3]))
    turns = [test_pairs[0].harmful.turn(steering.metadata["instruction"])]
    answerer = Answerer(embedded)
    first = answerer.answer(good, turns, 24)
    with pytest.raises(SteeringError):
        answerer.answer(bad, turns, 24)
    assert answerer.answer(good, turns, 24) == first
    answerer.close()
    assert not embedded.steered


def test_a_rewrite_that_fails_concerns_one_request(embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs) -> None:
    defense = BuiltDefense({"kind": "x"}, prompt=PromptRewrite("x", after=" Answer."))
    turns: list[Any] = [[{"role": "system", "content": "no user"}], test_pairs[0].safe.turn("Answer.")]
    bad, good = Answerer(embedded).answer(defense, turns, 8)
    assert isinstance(bad, MessageError)
    assert isinstance(good, Reply)
