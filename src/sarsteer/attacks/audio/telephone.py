"""A telephone line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.filtering import filtered
from sarsteer.attacks.audio.mixing import limited
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import SILENCE, Clip
from sarsteer.registry import option

_RATE, _MU, _PACKET = 8000, 255, 160


@dataclass(frozen=True)
class Telephone(Transform):
    """A telephone line: 300 to 3,400 Hz, 8 kHz, µ-law, and lost packets."""

    name: ClassVar[str] = "telephone"
    axis: ClassVar[Axis] = Axis("loss", "lost packets (share)", (0.0, 0.02, 0.05, 0.1, 0.2, 0.4), 0, 0.9)

    loss: float = option(0.0, argument=True, help="share of the packets of 20 ms that are lost and stay silent")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip at the other end."""
        narrow = filtered(clip, "bandpass", 300, 3400).resampled(_RATE)
        coded = np.sign(narrow.samples) * np.log1p(_MU * np.abs(narrow.samples)) / np.log1p(_MU)
        coded = np.round(coded * 127) / 127
        samples = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU
        packets = -(-len(samples) // _PACKET)
        kept = np.repeat(rng.random(packets) >= self.loss, _PACKET)[: len(samples)]
        kept = kept if np.abs(samples[kept]).max(initial=0) > SILENCE else np.ones(len(samples), bool)
        return limited(replace(narrow, samples=(samples * kept).astype(np.float32)).resampled(clip.rate))
