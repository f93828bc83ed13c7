"""Best-of-n jailbreaking (arXiv 2412.03556): random compositions of transforms, until one answer complies."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sarsteer.attacks.audio.music import Music
from sarsteer.attacks.audio.noise import Noise
from sarsteer.attacks.audio.pitch import Pitch
from sarsteer.attacks.audio.speech import Speech
from sarsteer.attacks.audio.speed import Speed
from sarsteer.attacks.audio.volume import Volume
from sarsteer.attacks.base import Attack, AttackContext
from sarsteer.attacks.items import clip_path, variant_of, with_clip, write_clip
from sarsteer.audio import Clip, load_clip
from sarsteer.registry import option

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item

QUIET = 40.0
"""Signal-to-noise ratio of a mixed sound whose strength is 0, in dB; at strength 1 it is as loud as the speech."""


@dataclass(frozen=True)
class BestOfN(Attack):
    """Best of n: random compositions of speed, pitch, speech, noise, volume and music.

    Each draw has six strengths from a normal distribution around 0. Draw number i has the same strengths for every
    request, harmful or safe, so that both sides meet the same sounds.
    """

    name: ClassVar[str] = "best-of-n"

    n: int = option(100, argument=True, help="draws per request; the published attack uses 600 and more")
    sigma: float = option(0.25, help="standard deviation of the strengths; 1 is an octave, or 20 dB")

    def check(self) -> None:
        """Raise ``AttackError`` if an option is out of range."""
        if not 1 <= self.n <= 10_000:
            raise self.reject(f"n must be from 1 to 10000, not {self.n}")
        if not 0 < self.sigma <= 1:
            raise self.reject(f"sigma must be above 0 and at most 1, not {self.sigma:g}")

    @property
    def queries(self) -> int:
        """The number of draws."""
        return self.n

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """``n`` variants of each item, in a row."""
        draws = [np.clip(context.rng("draw", i).normal(0, self.sigma, 6), -1, 1) for i in range(1, self.n + 1)]

        def make(target: tuple[Item, int]) -> Item:
            item, number = target
            if item.modality != "audio":
                raise self.reject(f"changes clips, and item {item.id!r} is {item.modality}; choose spoken requests")
            path = clip_path(context.folder, item, f"-{number}")
            if not path.is_file():
                rng = context.rng(item.id, number)
                write_clip(path, composed(load_clip(item.audio), draws[number - 1].tolist(), rng))
            return variant_of(with_clip(item, path), number)

        targets = [(item, number) for item in items for number in range(1, self.n + 1)]
        attacked = []
        with ThreadPoolExecutor() as pool:
            for item in pool.map(make, targets):
                attacked.append(item)
                if context.progress is not None:
                    context.progress(len(attacked), len(targets))
        return attacked


def composed(clip: Clip, strengths: Sequence[float], rng: np.random.Generator) -> Clip:
    """``clip`` under all six transforms.

    Args:
        clip: the clip.
        strengths: of speed, pitch, speech, noise, volume and music, each in [-1, 1]; 0 changes nothing audible.
        rng: for the mixed sounds.

    """
    speed, pitch, speech, noise, volume, music = strengths
    for transform in (
        Speed(2**speed),
        Pitch(12 * pitch),
        Speech(snr=QUIET * (1 - abs(speech))),
        Noise(snr=QUIET * (1 - abs(noise))),
        Volume(20 * volume),
        Music(snr=QUIET * (1 - abs(music))),
    ):
        clip = transform.apply(clip, rng)
    return clip
