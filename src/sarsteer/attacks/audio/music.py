"""Music at a signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sarsteer.attacks.audio.mixing import looped, mixed
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Music(Transform):
    """Music at a signal-to-noise ratio; generated chords, or a file."""

    name: ClassVar[str] = "music"
    axis: ClassVar[Axis] = Axis("snr", "speech to music (dB)", (20, 15, 10, 5, 0, -5), -30, 80)

    snr: float = option(5.0, help="of the speech to the music, in dB")
    file: Path | None = option(None, help="a recording, repeated to the length of the clip")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip and the music."""
        length = len(clip.samples)
        return mixed(clip, chords(length, clip.rate, rng) if self.file is None else looped(self.file, clip), self.snr)


def chords(length: int, rate: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A sequence of triads with overtones, half a second each."""
    step = max(1, rate // 2)
    samples = np.zeros(length)
    for start in range(0, length, step):
        time = np.arange(min(step, length - start)) / rate
        root = 110 * 2 ** (rng.integers(0, 12) / 12)
        for interval in (0, 4 if rng.random() < 0.5 else 3, 7):
            for overtone in (1, 2, 3):
                tone = np.sin(2 * np.pi * root * 2 ** (interval / 12) * overtone * time)
                samples[start : start + len(time)] += tone * np.exp(-2 * time) / overtone
    return samples.astype(np.float32)
