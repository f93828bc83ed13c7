"""Aim at a guard that reads transcripts: the clip should be answered as before, and be heard as something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sarsteer.attacks.base import AttackContext
from sarsteer.attacks.gradient.pgd import Pgd
from sarsteer.registry import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class TranscriptTarget(Pgd):
    """Like pgd, and the model's transcript should become harmless words. Needs a guard that reads transcripts."""

    name: ClassVar[str] = "transcript-target"

    heard: str = option("What is the weather like today?", help="the wanted transcript")

    @property
    def transcript(self) -> str:
        """The wanted transcript."""
        return self.heard

    def check(self) -> None:
        """Raise ``AttackError`` if an option is out of range."""
        super().check()
        if not self.heard.strip():
            raise self.reject("heard is empty; write the words that the guard should read")

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """As ``GradientAttack.attack``; the defense needs a guard."""
        guards = () if context.defense is None else [one.guard for one in context.defense.members]
        if not any(guards) or self.source == "undefended":
            raise self.reject("aims at the transcripts that a guard reads, and this defense has none; use pgd")
        return super().attack(items, context)
