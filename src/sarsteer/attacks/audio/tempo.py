"""Tempo without pitch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.mixing import limited
from sarsteer.attacks.audio.stretching import stretched
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Tempo(Transform):
    """Faster or slower speech at the same pitch (phase vocoder)."""

    name: ClassVar[str] = "tempo"
    axis: ClassVar[Axis] = Axis("factor", "tempo (factor)", (0.5, 0.7, 0.85, 1.2, 1.5, 2.0), 0.25, 4)

    factor: float = option(1.5, argument=True, help="times the tempo; 2 halves the length")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The stretched clip."""
        return limited(stretched(clip, self.factor))
