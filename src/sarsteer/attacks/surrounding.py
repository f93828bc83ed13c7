"""Attacks that put other speech around a request."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sarsteer.attacks.audio.mixing import limited, power
from sarsteer.attacks.base import Attack, AttackContext
from sarsteer.attacks.items import clip_path, with_clip, write_clip
from sarsteer.audio import Clip, load_clip
from sarsteer.data.manifest import WITHIN

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item

PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Surrounding(Attack):
    """An attack that puts clips before and after each request.

    Whether the request was misheard is measured on the part of the transcript that fits it best.
    """

    @abstractmethod
    def around(self, clip: Clip, rng: np.random.Generator) -> tuple[list[Clip], list[Clip]]:
        """The clips before and after ``clip``."""

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """Each clip between others, with short pauses."""
        attacked = []
        for number, item in enumerate(items, 1):
            if item.modality != "audio":
                raise self.reject(f"changes clips, and item {item.id!r} is {item.modality}; choose spoken requests")
            path = clip_path(context.folder, item)
            if not path.is_file():
                clip = load_clip(item.audio)
                before, after = self.around(clip, context.rng(item.id))
                write_clip(path, joined([*before, clip, *after], clip))
            attacked.append(with_clip(item, path, **{WITHIN: True}))
            if context.progress is not None:
                context.progress(number, len(items))
        return attacked


def joined(clips: Sequence[Clip], like: Clip) -> Clip:
    """``clips`` one after the other, at the rate and about the loudness of ``like``."""
    loudness = power(like.samples)
    pause = np.zeros(round(PAUSE_SECONDS * like.rate), np.float32)
    parts = []
    for clip in clips:
        samples = clip.resampled(like.rate).samples
        own = power(samples)
        parts += [pause, samples * np.float32(np.sqrt(loudness / own) if own > 0 else 1)]
    return limited(replace(like, samples=np.concatenate(parts[1:])))
