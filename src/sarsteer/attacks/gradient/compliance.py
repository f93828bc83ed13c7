"""Ask the real, defended model about an attacked clip, and judge its answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.built import UNDEFENDED, BuiltDefense
from sarsteer.errors import AttackError, SarsteerError
from sarsteer.judges.base import Judge, JudgedAnswer, Outcome
from sarsteer.runtime.answerer import Answerer, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from sarsteer.data.manifest import Item
    from sarsteer.steering.strength import ResolvedStrength


@dataclass(frozen=True)
class Look:
    """What the defended model did with a clip.

    Attributes:
        answer: its greedy answer.
        outcome: the judge's verdict on it.
        opening: how far the gate opened; None without a gate.
        score: the gate's score.

    """

    answer: str
    outcome: Outcome | None
    opening: float | None = None
    score: float | None = None

    @property
    def complied(self) -> bool:
        """Whether the attack succeeded."""
        return self.outcome == "complied"


@dataclass(frozen=True)
class Question:
    """One clip that the model should answer.

    Attributes:
        item: whose request the judge reads.
        clip: the file in place of the item's own.
        text: beside the clip.
        defense: under which it is answered.

    """

    item: Item
    clip: Path
    text: str
    defense: BuiltDefense = UNDEFENDED


class RealPipeline:
    """The defended model as a user meets it: files, the real processor, the attached steering, greedy decoding.

    The same samples under the same defense are answered once: a search often ends with the clip that it looked at last.
    """

    def __init__(
        self,
        answerer: Answerer,
        judge: Judge,
        max_new_tokens: int,
        batch_size: int,
        known: dict[Hashable, Look],
    ) -> None:
        self._answerer, self._judge = answerer, judge
        self._max_new_tokens, self._batch_size = max_new_tokens, batch_size
        self._known = known

    def looks(self, questions: Sequence[Question]) -> list[Look]:
        """Answer the requests, in batches.

        Raises:
            SarsteerError: the model does not take a clip.

        """
        keys = [self._key(one) for one in questions]
        fresh = {key: one for key, one in zip(keys, questions, strict=True) if key not in self._known}
        for defense in {id(one.defense): one.defense for one in fresh.values()}.values():
            own = {key: one for key, one in fresh.items() if one.defense is defense}
            turns = [_turn(one) for one in own.values()]
            replies = self._answerer.answer(defense, turns, self._max_new_tokens, batch_size=self._batch_size)
            self._known |= {
                key: self._judged(one, reply) for (key, one), reply in zip(own.items(), replies, strict=True)
            }
        return [self._known[key] for key in keys]

    def _key(self, question: Question) -> Hashable:
        clip = hashlib.sha256(question.clip.read_bytes()).hexdigest()
        by = (self._answerer.model.name, question.defense.key, self._max_new_tokens, json.dumps(self._judge.signature))
        return (question.item.id, question.text, clip, *by)

    def _judged(self, question: Question, reply: Reply | Exception) -> Look:
        item = question.item
        if not isinstance(reply, Reply):
            raise reply.at(f"item {item.id!r}") if isinstance(reply, SarsteerError) else reply
        label: Any = item.label
        asked = JudgedAnswer(item.question, reply.text, label, reference=item.answer, id=item.id)
        (verdict,) = self._judge.judge([asked])
        gate = reply.details.get("gate") or {}
        return Look(reply.text, verdict.outcome, gate.get("opening"), gate.get("score"))


def _turn(question: Question) -> list[dict[str, Any]]:
    content = [{"type": "audio", "path": str(question.clip)}, {"type": "text", "text": question.text}]
    return [{"role": "user", "content": content}]


def followed(defense: BuiltDefense, *, transcripts: bool = False) -> tuple[ResolvedStrength | None, ...]:
    """What the attacker differentiates: the defense's strength, or all those that it draws from.

    Of a defense that is drawn from several, the attacker follows the mean, because he does not know the draw.

    Args:
        defense: the defense.
        transcripts: whether the attacker also aims at the transcripts that guards read.

    Raises:
        AttackError: ``defense`` changes answers in a way that has no gradient.

    """
    kind = defense.settings.get("kind", "this defense")
    members = defense.members
    for present, what in (
        (any(one.guard for one in members) and not transcripts, "reads transcripts"),
        (any(one.per_request for one in members), "computes its vectors for each request"),
        (len({one.prompt for one in members}) > 1, "draws from several prompts"),
    ):
        if present:
            other = "transcript-target, " if "transcripts" in what else ""
            raise AttackError(
                f"defense {kind!r} {what} and has no gradient here; use {other}an attack without gradients, "
                "or source=undefended"
            )
    return tuple(one.strength for one in members)
