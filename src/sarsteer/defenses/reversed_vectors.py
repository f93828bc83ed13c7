"""Reversed vectors: the control that shows whether the direction's sign matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.control import Control


@dataclass(frozen=True)
class ReversedVectors(Control):
    """A control: SARSteer's vectors with the opposite sign."""

    name: ClassVar[str] = "reversed"

    def build(self, context: DefenseContext) -> BuiltDefense:
        """The negated vectors."""
        from sarsteer.steering.baselines import reversed_vectors

        built = self.controlled(context)
        return self.with_vectors(built, reversed_vectors(built.vectors))
