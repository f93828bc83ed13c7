"""Which attacked clips the undefended model misheard, for benchmarks of attacks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jiwer

from sarsteer.data.manifest import Item
from sarsteer.data.text import words
from sarsteer.defenses.built import UNDEFENDED
from sarsteer.defenses.request_guard import transcription_of
from sarsteer.files import write_text
from sarsteer.messages import user_turn
from sarsteer.runtime.answerer import Answerer


class Hearing:
    """Word error rates of attacked clips: the undefended model's transcript against that of the clean clip."""

    def __init__(self, answerer: Answerer, path: Path, limit: float | None) -> None:
        self._answerer, self._path, self._limit = answerer, path, limit
        self._known: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}

    def word_error_rates(self, items: Sequence[Item]) -> list[float | None]:
        """Of attacked clips; None if nothing is measured."""
        if self._limit is None:
            return [None] * len(items)
        heard = self._transcripts([Path(clip) for item in items for clip in (item.extra["clean"], item.audio)])
        return [
            float(jiwer.wer(" ".join(clean), " ".join(attacked))) if clean else 1.0
            for clean, attacked in zip(heard[::2], heard[1::2], strict=True)
        ]

    def _transcripts(self, clips: Sequence[Path]) -> list[list[str]]:
        keys = [hashlib.sha256(clip.read_bytes()).hexdigest() for clip in clips]
        fresh = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in self._known}
        if fresh:
            ask = transcription_of(self._answerer.model.name)
            turns = [user_turn(str(clip), ask) for clip in fresh.values()]
            for key, reply in zip(fresh, self._answerer.answer(UNDEFENDED, turns, 48), strict=True):
                if isinstance(reply, Exception):
                    raise reply
                self._known[key] = reply.text
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._known, indent=0))
        return [words(self._known[key]) for key in keys]
