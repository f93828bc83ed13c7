"""MP3 at a low bit rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.coding import mp3
from sarsteer.attacks.audio.mixing import limited
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Mp3(Transform):
    """The clip after MP3 compression."""

    name: ClassVar[str] = "mp3"
    axis: ClassVar[Axis] = Axis("kbps", "MP3 bit rate (kbit/s)", (64, 32, 24, 16, 8), 8, 160)

    kbps: float = option(16.0, argument=True, help="bit rate in kbit/s, 8 to 160")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Encoded and decoded."""
        return limited(mp3(clip, self.kbps))
