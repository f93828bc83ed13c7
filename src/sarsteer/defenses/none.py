"""No defense: what the others are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.defenses.base import Defense, DefenseContext
from sarsteer.defenses.built import UNDEFENDED, BuiltDefense


@dataclass(frozen=True)
class NoDefense(Defense):
    """No defense."""

    name: ClassVar[str] = "none"

    def build(self, context: DefenseContext) -> BuiltDefense:
        """Nothing is changed."""
        return UNDEFENDED
