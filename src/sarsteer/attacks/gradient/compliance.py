"""Ask the real, defended model about an attacked clip, and judge its answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.built import UNDEFENDED, BuiltDefense
from sarsteer.errors import AttackError
from sarsteer.judges.base import Judge, JudgedAnswer, Outcome
from sarsteer.runtime.answerer import Answerer, Reply

if TYPE_CHECKING:
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


class RealPipeline:
    """The defended model as a user meets it: files, the real processor, the attached steering, greedy decoding."""

    def __init__(self, answerer: Answerer, judge: Judge, max_new_tokens: int) -> None:
        self._answerer, self._judge, self._max_new_tokens = answerer, judge, max_new_tokens

    def look(self, item: Item, clip: Path, text: str, defense: BuiltDefense = UNDEFENDED) -> Look:
        """Answer ``item``'s request with the file ``clip`` in place of its own.

        Raises:
            SarsteerError: the model does not take the clip.

        """
        content = [{"type": "audio", "path": str(clip)}, {"type": "text", "text": text}]
        replies = self._answerer.answer(
            defense, [[{"role": "user", "content": content}]], self._max_new_tokens, batch_size=1
        )
        reply = replies[0]
        if not isinstance(reply, Reply):
            raise reply
        label: Any = item.label
        verdict = self._judge.judge([JudgedAnswer(item.question, reply.text, label, reference=item.answer, id=item.id)])
        gate = reply.details.get("gate") or {}
        return Look(reply.text, verdict[0].outcome, gate.get("opening"), gate.get("score"))


def followed(defense: BuiltDefense) -> tuple[ResolvedStrength | None, ...]:
    """What the attacker differentiates: the defense's strength, or all those that it draws from.

    Of a defense that is drawn from several, the attacker follows the mean, because he does not know the draw.

    Raises:
        AttackError: ``defense`` changes answers in a way that has no gradient.

    """
    kind = defense.settings.get("kind", "this defense")
    members = defense.members
    for present, what in (
        (any(one.guard for one in members), "reads transcripts"),
        (any(one.per_request for one in members), "computes its vectors for each request"),
        (len({one.prompt for one in members}) > 1, "draws from several prompts"),
    ):
        if present:
            raise AttackError(
                f"defense {kind!r} {what} and has no gradient here; use an attack without gradients, "
                "or source=undefended"
            )
    return tuple(one.strength for one in members)
