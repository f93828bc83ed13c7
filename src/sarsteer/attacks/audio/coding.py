"""Compress a clip and read it again."""

from __future__ import annotations

import io

from sarsteer.audio import Clip, load_clip

_MP3_RATES = (16_000, 22_050, 24_000)  # MPEG-2: 8 to 160 kbit/s
_OPUS_RATES = (16_000, 24_000, 48_000)


def mp3(clip: Clip, kbps: float) -> Clip:
    """``clip`` after MP3 at about ``kbps`` kbit/s (8 to 160), at its own sampling rate."""
    return _coded(clip, "MP3", "MPEG_LAYER_III", _MP3_RATES, (160 - kbps) / 152, bitrate_mode="CONSTANT")


def opus(clip: Clip, kbps: float) -> Clip:
    """``clip`` after Opus at about ``kbps`` kbit/s (6 to 256), at its own sampling rate."""
    return _coded(clip, "OGG", "OPUS", _OPUS_RATES, (256 - kbps) / 250)


def _coded(clip: Clip, container: str, codec: str, rates: tuple[int, ...], level: float, **options: str) -> Clip:
    """``clip`` after a codec of libsndfile, at the compression ``level`` from 0 to 1."""
    import soundfile

    rate = next((rate for rate in rates if rate >= clip.rate), rates[-1])
    file = io.BytesIO()
    level = min(max(level, 0.0), 0.999)  # libsndfile fails at level 1
    samples = clip.resampled(rate).samples
    soundfile.write(file, samples, rate, format=container, subtype=codec, compression_level=level, **options)
    return load_clip(file.getvalue(), name=clip.name).resampled(clip.rate)
