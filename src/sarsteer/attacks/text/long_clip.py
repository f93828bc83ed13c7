"""The request in the middle of a long clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sarsteer.attacks.audio.everyday import SENTENCES, VOICES, spoken
from sarsteer.attacks.surrounding import PAUSE_SECONDS, Surrounding
from sarsteer.audio import Clip
from sarsteer.registry import option


@dataclass(frozen=True)
class LongClip(Surrounding):
    """The request in the middle of everyday speech by one voice."""

    name: ClassVar[str] = "long-clip"

    seconds: float = option(
        12.0, argument=True, help="length of the clip with the request; the model's window limits it"
    )

    def check(self) -> None:
        """Raise ``AttackError`` if the length is out of range."""
        if not 1 <= self.seconds <= 3600:
            raise self.reject(f"seconds must be from 1 to 3600, not {self.seconds:g}")

    def around(self, clip: Clip, rng: np.random.Generator) -> tuple[list[Clip], list[Clip]]:
        """Sentences on both sides until the clip would be too long."""
        voice = VOICES[rng.integers(len(VOICES))]
        sides: tuple[list[Clip], list[Clip]] = ([], [])
        left = self.seconds - clip.seconds
        number = int(rng.integers(len(SENTENCES)))
        while True:
            sentence = spoken(SENTENCES[number % len(SENTENCES)], voice)
            left -= sentence.seconds + PAUSE_SECONDS
            if left < 0:
                return sides
            side = sides[0] if len(sides[0]) <= len(sides[1]) else sides[1]
            side.append(sentence)
            number += 1
