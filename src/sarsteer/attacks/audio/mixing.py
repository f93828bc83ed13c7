"""Mix a sound into a clip at a signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sarsteer.audio import Clip, load_clip

_SLOPES = {"white": 0.0, "pink": 0.5, "brown": 1.0}


def power(samples: npt.NDArray[np.float32]) -> float:
    """The mean power of the parts with sound: frames within 40 dB of the loudest. Pauses do not count."""
    frame = 400
    padded = np.pad(samples.astype(np.float64), (0, -len(samples) % frame))
    frames = np.square(padded).reshape(-1, frame).mean(axis=1)
    return float(frames[frames >= frames.max() * 1e-4].mean())


def mixed(clip: Clip, other: npt.NDArray[np.float32], snr: float) -> Clip:
    """``clip`` plus ``other`` (as long as the clip), scaled so that the speech is ``snr`` dB louder."""
    loudness = power(other)
    if loudness == 0:
        return clip
    gain = np.sqrt(power(clip.samples) / loudness / 10 ** (snr / 10))
    return limited(replace(clip, samples=(clip.samples + gain * other).astype(np.float32)))


def limited(clip: Clip) -> Clip:
    """The clip, made quieter if a peak exceeds 1: what is measured is the sound, not the clipping."""
    peak = float(np.abs(clip.samples).max(initial=0.0))
    return clip if peak <= 1 else replace(clip, samples=clip.samples / np.float32(peak))


def colored_noise(length: int, color: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Gaussian noise whose power falls with the frequency: not (white), by 3 dB (pink) or 6 dB (brown) an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    bins = np.maximum(np.arange(len(spectrum)), 1)
    return np.fft.irfft(spectrum / bins ** _SLOPES[color], length).astype(np.float32)


def looped(file: Path, clip: Clip) -> npt.NDArray[np.float32]:
    """The recording in ``file`` at the clip's rate, repeated or cut to its length.

    Raises:
        AudioError: the file cannot be read.

    """
    return np.resize(load_clip(file).resampled(clip.rate).samples, len(clip.samples))
