"""Volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Volume(Transform):
    """Louder, until samples are cut off, or quieter."""

    name: ClassVar[str] = "volume"
    axis: ClassVar[Axis] = Axis("gain", "gain (dB)", (-40, -20, -10, 10, 20, 30), -80, 80)

    gain: float = option(20.0, argument=True, help="in dB; above the clip's headroom, peaks are cut off")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip times the gain; the quietest clip keeps a peak of -60 dBFS, which is not silent."""
        peak = float(np.abs(clip.samples).max())
        factor = max(10 ** (self.gain / 20), min(1.0, 1e-3 / peak))
        return replace(clip, samples=np.clip(clip.samples * np.float32(factor), -1, 1))
