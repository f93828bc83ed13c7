"""Reverberation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.mixing import limited
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Reverb(Transform):
    """A room: exponentially decaying echoes."""

    name: ClassVar[str] = "reverb"
    axis: ClassVar[Axis] = Axis("seconds", "reverberation time (s)", (0.2, 0.4, 0.8, 1.5, 3.0), 0.01, 10)

    seconds: float = option(0.8, argument=True, help="until echoes are 60 dB quieter (RT60)")
    wet: float = option(0.5, help="share of the echoes in the power, from 0 to 1")

    def check(self) -> None:
        """Raise ``AttackError`` if a value is out of range."""
        super().check()
        if not 0 <= self.wet <= 1:
            raise self.reject(f"wet must be from 0 to 1, not {self.wet:g}")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip and its echoes, without the tail after the last word."""
        from scipy.signal import fftconvolve

        length = max(1, int(self.seconds * clip.rate))
        decay = 10 ** (-3 * np.arange(length) / length)
        room = rng.standard_normal(length) * decay
        room /= np.sqrt(np.square(room).sum())
        echoes = fftconvolve(clip.samples, room)[: len(clip.samples)]
        samples = np.sqrt(1 - self.wet) * clip.samples + np.sqrt(self.wet) * echoes
        return limited(replace(clip, samples=samples.astype(np.float32)))
