"""A limited band: no low frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.filtering import filtered
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class HighPass(Transform):
    """No frequencies below a cutoff, as from a small speaker."""

    name: ClassVar[str] = "highpass"
    axis: ClassVar[Axis] = Axis("cutoff", "lowest frequency (Hz)", (200, 400, 800, 1200, 1800, 2500), 10, 20_000)

    cutoff: float = option(800.0, argument=True, help="in Hz")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The filtered clip."""
        return filtered(clip, "highpass", self.cutoff)
