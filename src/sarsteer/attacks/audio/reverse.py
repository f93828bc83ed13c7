"""Reversed segments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Reverse(Transform):
    """Consecutive segments, each played backwards."""

    name: ClassVar[str] = "reverse"
    axis: ClassVar[Axis] = Axis("milliseconds", "reversed segments (ms)", (10, 20, 40, 60, 100, 200), 1, 10_000)

    milliseconds: float = option(40.0, argument=True, help="length of a segment; people understand up to about 60")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Each segment backwards."""
        length = max(1, round(self.milliseconds * clip.rate / 1000))
        starts = range(0, len(clip.samples), length)
        return replace(clip, samples=np.concatenate([clip.samples[i : i + length][::-1] for i in starts]))
