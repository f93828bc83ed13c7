"""Opus at a low bit rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.coding import opus
from sarsteer.attacks.audio.mixing import limited
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Opus(Transform):
    """The clip after Opus compression, as in a voice chat."""

    name: ClassVar[str] = "opus"
    axis: ClassVar[Axis] = Axis("kbps", "Opus bit rate (kbit/s)", (32, 16, 12, 8, 6), 6, 256)

    kbps: float = option(8.0, argument=True, help="bit rate in kbit/s, 6 to 256")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Encoded and decoded."""
        return limited(opus(clip, self.kbps))
