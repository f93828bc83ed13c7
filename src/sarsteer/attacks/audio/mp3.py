"""MP3 at a low bit rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.coding import coded
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Mp3(Transform):
    """The clip after MP3 compression."""

    name: ClassVar[str] = "mp3"
    axis: ClassVar[Axis] = Axis("compression", "MP3 compression (0 to 1)", (0.2, 0.4, 0.6, 0.8, 1.0), 0, 1)

    compression: float = option(1.0, argument=True, help="libsndfile's level: 0 is the highest bit rate, 1 the lowest")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Encoded and decoded."""
        return coded(clip, "MP3", "MPEG_LAYER_III", self.compression)
