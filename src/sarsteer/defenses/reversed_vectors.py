"""Reversed vectors: the control that shows whether the direction's sign matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.steered import steered


@dataclass(frozen=True)
class ReversedVectors(ArtifactDefense):
    """A control: SARSteer's vectors with the opposite sign."""

    name: ClassVar[str] = "reversed"

    def build(self, context: DefenseContext) -> BuiltDefense:
        """The negated vectors."""
        from sarsteer.steering.baselines import reversed_vectors

        steering, strength = self.resolve(context)
        strength = strength.with_vectors(reversed_vectors(strength.vectors))
        return steered(self.name, strength, strength.settings, steering=steering.digest)
