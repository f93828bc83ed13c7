"""The request in another voice: accent, pitch and manner of speaking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sarsteer.attacks.audio.everyday import spoken
from sarsteer.attacks.base import Attack, AttackContext
from sarsteer.attacks.items import clip_path, with_clip, write_clip
from sarsteer.registry import option

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class Voice(Attack):
    """The request's words in another voice of eSpeak NG: an accent, a whisper, a hoarse voice."""

    name: ClassVar[str] = "voice"

    voice: str = option("en-gb-scotland", argument=True, help="such as de, fr, hi, en-us+whisper or en-us+croak")
    speed: float = option(1.0, help="1 is the engine's default")

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """Each question, spoken."""
        attacked = []
        for number, item in enumerate(items, 1):
            if item.modality != "audio":
                raise self.reject(f"speaks requests, and item {item.id!r} is {item.modality}; choose spoken requests")
            path = clip_path(context.folder, item)
            if not path.is_file():
                write_clip(path, spoken(item.question, self.voice, self.speed))
            attacked.append(with_clip(item, path))
            if context.progress is not None:
                context.progress(number, len(items))
        return attacked
