"""Other speech at a signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.everyday import everyday_speech
from sarsteer.attacks.audio.mixing import looped, mixed
from sarsteer.attacks.transform import Axis, Transform
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class Speech(Transform):
    """Another speaker at a signal-to-noise ratio; everyday sentences by eSpeak NG, or a file."""

    name: ClassVar[str] = "speech"
    axis: ClassVar[Axis] = Axis("snr", "speech to other speech (dB)", (20, 15, 10, 5, 0, -5), -30, 80)

    snr: float = option(5.0, help="of the request to the other speech, in dB")
    file: Path | None = option(None, help="a recording, repeated to the length of the clip")

    def apply(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip and the other speaker."""
        if self.file is not None:
            return mixed(clip, looped(self.file, clip), self.snr)
        other = everyday_speech(rng).resampled(clip.rate)
        return mixed(clip, np.resize(other.samples, len(clip.samples)), self.snr)
