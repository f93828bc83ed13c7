"""Attacks that change only the text beside a clip."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sarsteer.attacks.base import Attack, AttackContext

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class Wording(Attack):
    """An attack that replaces the instruction beside each clip; the clip stays as it is.

    The texts ask for compliance in general. They contain no harmful content, so that they can be published.
    """

    @abstractmethod
    def words(self, instruction: str) -> str:
        """The text instead of ``instruction``."""

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """Each item with another text."""
        return [replace(item, text=self.words(item.text or context.instruction)) for item in items]
