"""Inserted tones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.inserting import inserted
from sarsteer.attacks.audio.mixing import limited, power
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Tones(Transform):
    """Beeps before, after and within the request."""

    name: ClassVar[str] = "tones"
    axis: ClassVar[Axis] = Axis("seconds", "inserted tones (s)", (0.2, 0.5, 1.0, 2.0, 4.0), 0, 20)

    seconds: float = option(1.0, argument=True, help="of tones in all, in equal parts")
    parts: int = option(4, help="number of tones; the first and the last are outside the request")
    frequency: float = option(1000.0, help="in Hz")

    def check(self) -> None:
        """Raise ``AttackError`` if a value is out of range."""
        super().check()
        if self.parts < 1:
            raise self.reject(f"parts must be at least 1, not {self.parts}")
        if self.frequency <= 0:
            raise self.reject(f"frequency must be above 0, not {self.frequency:g}")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The pieces of the clip, with tones as loud as the speech between."""
        time = np.arange(round(self.seconds * clip.rate / self.parts)) / clip.rate
        level = np.sqrt(2 * power(clip.samples))
        tone = (level * np.sin(2 * np.pi * self.frequency * time)).astype(np.float32)
        return limited(replace(clip, samples=inserted(clip.samples, tone, self.parts)))
