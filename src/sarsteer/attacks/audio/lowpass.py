"""A limited band: no high frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.filtering import filtered
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class LowPass(Transform):
    """No frequencies above a cutoff, as behind a wall."""

    name: ClassVar[str] = "lowpass"
    axis: ClassVar[Axis] = Axis("cutoff", "highest frequency (Hz)", (4000, 3000, 2000, 1500, 1000, 500), 50, 48_000)

    cutoff: float = option(1500.0, argument=True, help="in Hz")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The filtered clip."""
        return filtered(clip, "lowpass", self.cutoff)
