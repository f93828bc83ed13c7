"""Compress a clip and read it again."""

from __future__ import annotations

import io

from sarsteer.audio import Clip, load_clip

_RATES = {"MPEG_LAYER_III": (16_000, 22_050, 24_000, 32_000, 44_100, 48_000), "OPUS": (16_000, 24_000, 48_000)}
"""Sampling rates that both the codec and libsndfile take, without those that would cut the band."""


def coded(clip: Clip, container: str, codec: str, compression: float) -> Clip:
    """``clip`` after a lossy codec, at its own sampling rate.

    Args:
        clip: what is compressed.
        container: libsndfile's name of the format.
        codec: libsndfile's name of the subtype.
        compression: from 0, the highest bit rate, to 1.

    """
    import soundfile

    rate = next((rate for rate in _RATES[codec] if rate >= clip.rate), _RATES[codec][-1])
    file = io.BytesIO()
    samples = clip.resampled(rate).samples
    # libsndfile ends at level 1 with an error for some rates: its own highest level is just below
    soundfile.write(file, samples, rate, format=container, subtype=codec, compression_level=min(compression, 0.99))
    return load_clip(file.getvalue(), name=clip.name).resampled(clip.rate)
