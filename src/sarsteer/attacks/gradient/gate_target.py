"""Aim at the gate alone: obfuscated activations (2412.09565)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sarsteer.attacks.base import AttackContext
from sarsteer.attacks.gradient.compliance import followed
from sarsteer.attacks.gradient.objective import Weights
from sarsteer.attacks.gradient.pgd import Pgd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class GateTarget(Pgd):
    """Like pgd, with the gate's layers as the only target: nothing is asked of the answer. Needs a gate."""

    name: ClassVar[str] = "gate-target"

    def weights(self) -> Weights:
        """Only what the defense looks at."""
        return Weights(answer=0.0, defense=self.beta)

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """As ``GradientAttack.attack``; the defense needs a gate."""
        strengths = () if context.defense is None else followed(context.defense)
        if not strengths or any(one is None or one.gate is None for one in strengths):
            raise self.reject("aims at a gate, and this defense has none; use pgd")
        if self.beta == 0 or self.source == "undefended":
            raise self.reject("needs a beta above 0 and the defense's gradients; use pgd")
        return super().attack(items, context)
