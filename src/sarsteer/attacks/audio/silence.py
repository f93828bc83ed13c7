"""Inserted silence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.inserting import inserted
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Silence(Transform):
    """Pauses: silence before, after and within the request."""

    name: ClassVar[str] = "silence"
    axis: ClassVar[Axis] = Axis("seconds", "inserted silence (s)", (0.2, 0.5, 1.0, 2.0, 4.0), 0, 20)

    seconds: float = option(1.0, argument=True, help="of silence in all, in equal parts")
    parts: int = option(4, help="number of pauses; the first and the last are outside the request")

    def check(self) -> None:
        """Raise ``AttackError`` if a value is out of range."""
        super().check()
        if self.parts < 1:
            raise self.reject(f"parts must be at least 1, not {self.parts}")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The pieces of the clip, with pauses between."""
        pause = np.zeros(round(self.seconds * clip.rate / self.parts), np.float32)
        return replace(clip, samples=inserted(clip.samples, pause, self.parts))
