"""Harmless sentences, spoken, that attacks put around or under a request."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np

from sarsteer.audio import Clip

SENTENCES = (
    "The train to the coast leaves at a quarter past nine.",
    "We had soup and fresh bread for lunch today.",
    "My sister is planting tomatoes in the garden.",
    "The library opens again on Monday morning.",
    "It may rain in the afternoon, so take a coat.",
    "The children are building a castle out of sand.",
)
VOICES = ("en-us+f2", "en-gb-x-rp+m4", "en-us+m1", "en-gb-scotland+f4")

_one_at_a_time = threading.Lock()  # eSpeak NG has global state, and transforms run in threads


def everyday_speech(rng: np.random.Generator) -> Clip:
    """One of the sentences in one of the voices.

    Raises:
        MissingExtraError: eSpeak NG is not installed.

    """
    return spoken(SENTENCES[rng.integers(len(SENTENCES))], VOICES[rng.integers(len(VOICES))])


def spoken(text: str, voice: str, speed: float = 1.0) -> Clip:
    """``text``, spoken by eSpeak NG.

    Raises:
        MissingExtraError: eSpeak NG is not installed.
        SpeechError: there is no such voice.

    """
    with _one_at_a_time:
        return _spoken(text, voice, speed)


@lru_cache(maxsize=64)
def _spoken(text: str, voice: str, speed: float) -> Clip:
    from sarsteer.tts.espeak import EspeakEngine

    engine = EspeakEngine()
    engine.check_voice(voice)
    return engine.speak(text, voice, speed)
