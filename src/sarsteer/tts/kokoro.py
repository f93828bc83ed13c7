"""Kokoro, a small neural voice, if ``kokoro`` is installed; it fetches its weights from the Hub."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from sarsteer.audio import Clip
from sarsteer.errors import SpeechError
from sarsteer.tts.engine import Engine

_RATE = 24_000


@dataclass(frozen=True)
class KokoroEngine(Engine):
    """Kokoro. A voice is a name such as ``af_heart``: the first letter is the language, the second f or m."""

    name: ClassVar[str] = "kokoro"
    default_voice: ClassVar[str] = "af_heart"

    def __post_init__(self) -> None:
        _ = self._library

    @cached_property
    def _library(self) -> Any:
        try:
            return importlib.import_module("kokoro")
        except ImportError:
            raise SpeechError("kokoro is not installed; run pip install kokoro, or use the engine espeak") from None

    @cached_property
    def _pipelines(self) -> dict[str, Any]:
        return {}

    @property
    def version(self) -> str:
        """The release."""
        return version("kokoro")

    def check_voice(self, voice: str) -> None:
        """Check the form of the name: the voices themselves are files on the Hub."""
        if len(voice) < 4 or voice[0] not in "abefhijpz" or voice[1] not in "fm" or voice[2] != "_":
            raise SpeechError(f"kokoro has no voice {voice!r}; use a voice such as af_heart")

    def speak(self, text: str, voice: str, speed: float) -> Clip:
        """Speak with the pipeline of the voice's language."""
        language = voice[0]
        if language not in self._pipelines:
            self._pipelines[language] = self._library.KPipeline(lang_code=language)
        pieces = [np.asarray(audio, np.float32) for _, _, audio in self._pipelines[language](text, voice, speed=speed)]
        if not pieces:
            raise SpeechError(f"kokoro returned no sound for {text!r}; give words")
        return Clip(np.concatenate(pieces), _RATE, voice)
