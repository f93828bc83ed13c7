"""Filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sarsteer.attacks.audio.mixing import limited
from sarsteer.audio import Clip

_ORDER = 4


def filtered(clip: Clip, kind: str, *cutoffs: float) -> Clip:
    """``clip`` through a Butterworth filter (``lowpass``, ``highpass``, ``bandpass``), without a delay.

    Cutoffs at or above half the sampling rate change nothing; if the filter leaves less than -60 dBFS, the clip is made
    that loud, because silence is no clip.
    """
    from scipy.signal import butter, sosfiltfilt

    highest = 0.499 * clip.rate
    if kind == "lowpass" and cutoffs[0] >= highest:
        return clip
    limits = [min(cutoff, highest) for cutoff in cutoffs]
    sections = butter(_ORDER, limits[0] if len(limits) == 1 else limits, kind, fs=clip.rate, output="sos")
    samples = sosfiltfilt(sections, clip.samples, padlen=min(3 * 2 * _ORDER, len(clip.samples) - 1))
    peak = float(np.abs(samples).max())
    if 0 < peak < 1e-3:
        samples = samples * (1e-3 / peak)
    return limited(replace(clip, samples=samples.astype(np.float32)))
