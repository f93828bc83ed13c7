"""The request as text, beside a harmless clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sarsteer.attacks.audio.everyday import everyday_speech
from sarsteer.attacks.base import Attack, AttackContext
from sarsteer.attacks.items import clip_path, write_clip

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item


@dataclass(frozen=True)
class HarmfulText(Attack):
    """An everyday sentence in the clip, and the request as text."""

    name: ClassVar[str] = "harmful-text"

    def attack(self, items: Sequence[Item], context: AttackContext) -> list[Item]:
        """Each request, written. The clip does not contain it, so that it cannot be misheard."""
        attacked = []
        for item in items:
            if item.modality != "audio":
                raise self.reject(f"replaces clips, and item {item.id!r} is {item.modality}; choose spoken requests")
            path = clip_path(context.folder, item)
            if not path.is_file():
                write_clip(path, everyday_speech(context.rng(item.id)))
            extra = {key: value for key, value in item.extra.items() if key not in ("clean", "said")}
            text = f"{item.question}\n{item.text or context.instruction}"
            attacked.append(replace(item, media=path, text=text, extra=extra))
        return attacked
