"""Change the tempo of a clip without its pitch: a phase vocoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sarsteer.audio import Clip

_WINDOW_SECONDS = 0.032


def stretched(clip: Clip, factor: float) -> Clip:
    """``clip`` at ``factor`` times its tempo, so that 2 halves its length; the pitch stays.

    The magnitudes of the short-time spectrum are interpolated in time, and each bin's phase advances by its measured
    frequency.
    """
    from scipy.signal import istft, stft

    size = max(64, 2 * round(clip.rate * _WINDOW_SECONDS / 2))
    hop = size // 4
    padded = np.pad(clip.samples, (0, size))  # so that the last samples are stretched too, and a clip has a window
    _, _, spectrum = stft(padded, clip.rate, nperseg=size, noverlap=size - hop)
    positions = np.arange(0, max(spectrum.shape[1] - 1, 1), factor)
    spectrum = np.pad(spectrum, ((0, 0), (0, 2)))
    before = positions.astype(int)
    part = positions - before
    magnitude = (1 - part) * np.abs(spectrum[:, before]) + part * np.abs(spectrum[:, before + 1])
    expected = 2 * np.pi * hop * np.arange(spectrum.shape[0])[:, None] / size
    advance = np.angle(spectrum[:, before + 1]) - np.angle(spectrum[:, before]) - expected
    advance = expected + advance - 2 * np.pi * np.round(advance / (2 * np.pi))
    phase = np.angle(spectrum[:, :1]) + np.pad(np.cumsum(advance, axis=1)[:, :-1], ((0, 0), (1, 0)))
    _, samples = istft(magnitude * np.exp(1j * phase), clip.rate, nperseg=size, noverlap=size - hop)
    length = max(1, round(len(clip.samples) / factor))
    return replace(clip, samples=samples[:length].astype(np.float32))
