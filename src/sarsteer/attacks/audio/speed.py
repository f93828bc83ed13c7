"""Speed, as of a tape: tempo and pitch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.mixing import limited
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Speed(Transform):
    """Faster or slower playback, which moves the pitch too."""

    name: ClassVar[str] = "speed"
    axis: ClassVar[Axis] = Axis("factor", "speed (factor)", (0.6, 0.75, 0.9, 1.1, 1.3, 1.6), 0.25, 4)

    factor: float = option(1.3, argument=True, help="times the speed")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip, resampled."""
        return resped(clip, self.factor)


def resped(clip: Clip, factor: float) -> Clip:
    """``clip`` played at ``factor`` times its speed."""
    import soxr

    samples = soxr.resample(clip.samples, clip.rate * factor, clip.rate, quality="HQ").astype(np.float32)
    return limited(replace(clip, samples=samples))
