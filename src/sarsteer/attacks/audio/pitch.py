"""Pitch without tempo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.speed import resped
from sarsteer.attacks.audio.stretching import stretched
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Pitch(Transform):
    """A higher or lower voice at the same tempo."""

    name: ClassVar[str] = "pitch"
    axis: ClassVar[Axis] = Axis("semitones", "pitch (semitones)", (-8, -4, -2, 2, 4, 8), -24, 24)

    semitones: float = option(4.0, argument=True, help="up, or down if negative")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Stretched, then played faster or slower."""
        factor = 2 ** (self.semitones / 12)
        return resped(stretched(clip, 1 / factor), factor)
