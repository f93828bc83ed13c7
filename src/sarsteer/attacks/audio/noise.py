"""Noise of one color at a signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sarsteer.attacks.audio.mixing import colored_noise, mixed
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Noise(Transform):
    """Noise at a signal-to-noise ratio."""

    name: ClassVar[str] = "noise"
    axis: ClassVar[Axis] = Axis("snr", "signal-to-noise ratio (dB)", (30, 20, 15, 10, 5, 0), -30, 80)

    snr: float = option(10.0, help="of the speech to the noise, in dB")
    color: Literal["white", "pink", "brown"] = option("white", help="spectrum of the noise")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip and the noise."""
        return mixed(clip, colored_noise(len(clip.samples), self.color, rng), self.snr)
