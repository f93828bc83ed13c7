"""A set of requests that is answered and judged under one defense after another. Its clips are encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sarsteer.data.manifest import Item
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.rewrite import NO_REWRITE
from sarsteer.demo.arms import judged_arm
from sarsteer.demo.progress import Progress
from sarsteer.evaluation.results import Arm
from sarsteer.judges.base import Judge, JudgedAnswer, Verdict
from sarsteer.judges.embedded import is_correct
from sarsteer.messages import Message
from sarsteer.models.prompt import Prompt
from sarsteer.prompts import INSTRUCTION
from sarsteer.runtime.shared import SharedModel
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.rates import rate
from sarsteer.tiny.world import is_refusal

BATCH = 64
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class ExactJudge(Judge):
    """For tasks with one correct answer: ``complied`` if the answer is correct, ``broken`` if it is wrong."""

    name: ClassVar[str] = "exact answer"

    @property
    def signature(self) -> str:
        """The version."""
        return "exact-answer/1"

    def judge(self, items: Sequence[JudgedAnswer]) -> list[Verdict]:
        """A verdict for each item, by its reference."""
        return [
            Verdict("refused", "")
            if is_refusal(item.answer)
            else Verdict("complied", "")
            if item.answer.strip() == item.reference
            else Verdict("broken", "", "a wrong answer")
            for item in items
        ]


@dataclass(frozen=True)
class RequestSet:
    """Requests with their encoded prompts.

    Attributes:
        name: in tables.
        items: the requests.
        judge: decides what an answer is.
        shared: the model.
        prompts: of the requests, in the same order.

    """

    name: str
    items: tuple[Item, ...] = field(repr=False)
    judge: Judge
    shared: SharedModel = field(repr=False)
    prompts: tuple[Prompt, ...] = field(repr=False)

    @classmethod
    def encode(
        cls, name: str, items: Sequence[Item], judge: Judge, shared: SharedModel, progress: Progress
    ) -> RequestSet:
        """Encode the clips of ``items``."""
        model: Any = shared.model
        prompts: list[Prompt] = []
        for start in range(0, len(items), BATCH):
            progress(f"Encoding the {name}", start, len(items))
            prompts += model.prepare([_turn(item) for item in items[start : start + BATCH]])
        progress(f"Encoding the {name}", len(items), len(items))
        return cls(name, tuple(items), judge, shared, tuple(prompts))

    def arm(self, label: str, defense: BuiltDefense, undefended: Arm | None = None) -> Arm:
        """Answer every request under ``defense``, and judge the answers.

        Args:
            label: the defense in tables.
            defense: to apply.
            undefended: the arm without defense, to compare with.

        Raises:
            SarsteerError: a request has no answer.

        """
        settings = {**defense.settings, "max_new_tokens": MAX_NEW_TOKENS, "decoding": "greedy"}
        answers, texts = self.answers(defense), [_text(item) for item in self.items]
        return judged_arm(
            self.name, label, settings, self.items, answers, texts, self.judge, undefended, steering=defense.steering
        )

    def answers(self, defense: BuiltDefense) -> list[str]:
        """The answers under ``defense``, in the order of the requests."""
        requests: Any = self.prompts if defense.prompt is NO_REWRITE else [_turn(item) for item in self.items]
        replies = self.shared.answerer.answer(defense, requests, MAX_NEW_TOKENS, batch_size=BATCH)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [reply.text for reply in replies if not isinstance(reply, Exception)]

    def correct(self, arm: Arm) -> Estimate:
        """The share of safe requests whose answer is correct, word for word."""
        answers = zip(self.items, arm.answers, strict=True)
        return rate([is_correct(answer.answer, item) for item, answer in answers if not item.harmful])


def _text(item: Item) -> str:
    return item.text or INSTRUCTION


def _turn(item: Item) -> list[Message]:
    return item.turn(_text(item))
