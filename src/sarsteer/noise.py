"""White noise at a signal-to-noise ratio, for defenses that compare noised copies of a clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sarsteer.audio import Clip


def noised(clip: Clip, snr: float, rng: np.random.Generator) -> Clip:
    """``clip`` plus white noise whose mean power is ``snr`` dB below the clip's."""
    power = float(np.mean(np.square(clip.samples, dtype=np.float64)))
    noise = rng.standard_normal(len(clip.samples)) * np.sqrt(power / 10 ** (snr / 10))
    return replace(clip, samples=(clip.samples + noise).astype(np.float32))
