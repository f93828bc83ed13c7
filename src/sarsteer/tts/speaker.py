"""A voice of an engine, as users name it: ``[ENGINE:]VOICE``."""

from __future__ import annotations

from dataclasses import dataclass

from sarsteer.errors import SpeechError
from sarsteer.tts.engine import Engine
from sarsteer.tts.registry import ENGINES, load_engine

DEFAULT_ENGINE = "espeak"


@dataclass(frozen=True)
class Speaker:
    """One voice of one engine."""

    engine: Engine
    voice: str

    @classmethod
    def parse(cls, text: str) -> Speaker:
        """Read ``[ENGINE:]VOICE``, such as ``en-us+f3`` (eSpeak NG), ``kokoro:af_heart`` or ``piper:FILE.onnx``.

        Raises:
            SpeechError: the engine is not installed, or it has no such voice.

        """
        engine, colon, voice = text.partition(":")
        if not colon or engine not in ENGINES.names():
            engine, voice = DEFAULT_ENGINE, text
        if not voice.strip():
            raise SpeechError(f"{text!r} names no voice; write ENGINE:VOICE, such as espeak:en-us")
        loaded = load_engine(engine)
        loaded.check_voice(voice)
        return cls(loaded, voice)

    def __str__(self) -> str:
        return self.voice if self.engine.name == DEFAULT_ENGINE else f"{self.engine.name}:{self.voice}"
