"""Random vectors: the control that shows whether the direction matters, or only the norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.defenses.base import DefenseContext
from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.control import DIRECTIONS, Control, check_directions
from sarsteer.registry import option


@dataclass(frozen=True)
class RandomVectors(Control):
    """A control: random directions with the norms of SARSteer's vectors; each request gets one of five."""

    name: ClassVar[str] = "random"

    seed: int | None = option(None, help="of the first direction; the others have the next seeds")
    directions: int = option(DIRECTIONS, help="number of directions")

    def __post_init__(self) -> None:
        check_directions(self.name, self.directions)

    def build(self, context: DefenseContext) -> BuiltDefense:
        """A random direction in each layer, for each seed."""
        from sarsteer.steering.baselines import random_like

        built = self.controlled(context)
        seed = context.seed if self.seed is None else self.seed
        norms = built.vectors
        return self.with_each(built, [random_like(norms, seed + i) for i in range(self.directions)], seed)
