"""Emphasis on parts of the request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.mixing import limited
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Emphasis(Transform):
    """Some parts of the request louder, as if emphasized."""

    name: ClassVar[str] = "emphasis"
    axis: ClassVar[Axis] = Axis("gain", "emphasis (dB)", (3, 6, 12, 18, 24), 0, 60)

    gain: float = option(12.0, argument=True, help="of the emphasized parts over the others, in dB")
    share: float = option(0.3, help="of the clip that is emphasized, from 0 to 1")

    def check(self) -> None:
        """Raise ``AttackError`` if a value is out of range."""
        super().check()
        if not 0 <= self.share <= 1:
            raise self.reject(f"share must be from 0 to 1, not {self.share:g}")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Parts of 0.3 s, about a word, chosen at random, with soft edges."""
        word = max(1, round(0.3 * clip.rate))
        parts = -(-len(clip.samples) // word)
        chosen = np.zeros(parts)
        chosen[rng.permutation(parts)[: round(self.share * parts)]] = 1
        edge = max(1, round(0.02 * clip.rate))
        weight = np.convolve(np.repeat(chosen, word)[: len(clip.samples)], np.ones(edge) / edge, mode="same")
        gains = 10 ** (self.gain * weight[: len(clip.samples)] / 20)
        return limited(replace(clip, samples=(clip.samples * gains).astype(np.float32)))
