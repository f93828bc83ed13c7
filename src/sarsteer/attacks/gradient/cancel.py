"""Cancel the known vectors: an upper bound of what an attacker gains by knowing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sarsteer.attacks.base import AttackContext
from sarsteer.attacks.gradient.compliance import followed
from sarsteer.attacks.gradient.objective import Weights
from sarsteer.attacks.gradient.pgd import Pgd
from sarsteer.registry import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class Cancel(Pgd):
    """Like pgd, toward the undefended activations: the clip undoes what the defense adds. Needs a steered defense."""

    name: ClassVar[str] = "cancel"

    answer: float = option(0.0, help="weight of the wanted answer beside the cancellation")

    def weights(self) -> Weights:
        """The cancellation."""
        return Weights(answer=self.answer, defense=0.0, cancel=1.0)

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """As ``GradientAttack.attack``; the defense must add vectors."""
        strengths = () if context.defense is None else followed(context.defense)
        if not any(strengths) or self.source == "undefended":
            raise self.reject("cancels a defense's vectors, and this one adds none that it may see; use pgd")
        return super().attack(items, context)
