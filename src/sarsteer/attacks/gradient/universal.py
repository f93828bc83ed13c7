"""One change for many clips: it is found on some and applied to all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sarsteer.attacks.gradient.pgd import Pgd
from sarsteer.registry import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class Universal(Pgd):
    """One perturbation of at most epsilon that is added to every clip; found on the first clips, for all of them."""

    name: ClassVar[str] = "universal"

    clips: int = option(8, help="number of harmful clips on which it is found")

    def check(self) -> None:
        """Raise ``AttackError`` if an option is out of range."""
        super().check()
        if not 1 <= self.clips <= 1000:
            raise self.reject(f"clips must be from 1 to 1000, not {self.clips}")

    def fitted_on(self, items: Sequence[Item]) -> list[Item]:
        """The items on which the perturbation is found: the first harmful ones."""
        return [item for item in items if item.harmful][: self.clips] or list(items)[: self.clips]

    def groups(self, items: Sequence[Item]) -> list[tuple[list[Item], list[Item]]]:
        """One group."""
        fitted = self.fitted_on(items)
        return [(fitted, [item for item in items if item not in fitted])]
