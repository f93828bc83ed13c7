"""Random vectors: the control that shows whether the direction matters, or only the norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.from_artifact import ArtifactDefense
from sarsteer.defenses.steered import steered
from sarsteer.registry import option


@dataclass(frozen=True)
class RandomVectors(ArtifactDefense):
    """A control: random directions with the norms of SARSteer's vectors."""

    name: ClassVar[str] = "random"

    seed: int | None = option(None, help="of the random directions")

    def build(self, context: DefenseContext) -> BuiltDefense:
        """A random direction in each layer."""
        from sarsteer.steering.baselines import random_like

        steering, strength = self.resolve(context)
        seed = context.seed if self.seed is None else self.seed
        strength = strength.with_vectors(random_like(strength.vectors, seed))
        return steered(self.name, strength, {**strength.settings, "seed": seed}, steering=steering.digest)
