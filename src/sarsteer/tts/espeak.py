"""Speech from eSpeak NG through ctypes: no system package, about 20 ms per clip.

``espeakng-loader`` contains the shared library and its voices. The library has global state, so a process synthesizes
one clip at a time.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sarsteer.audio import Clip
from sarsteer.errors import MissingExtraError, SpeechError, did_you_mean
from sarsteer.tts.engine import Engine

WORDS_PER_MINUTE = 175
"""eSpeak's default speed."""

_SLOWEST, _FASTEST = 80, 450  # words per minute that espeak accepts
_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: samples go to the callback, nothing is played
_PHONEME_EVENTS = 1  # espeak_Initialize: report when each phoneme begins
_LIST_END, _WORD, _PHONEME = 0, 1, 7  # espeak_EVENT_TYPE
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER


class _Event(ctypes.Structure):
    """``espeak_EVENT``; the string form of the union ``id`` is the phoneme's name."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The loaded library."""

    def __init__(self) -> None:
        loader = _loader()
        self._lib = ctypes.CDLL(loader.get_library_path())
        data = str(loader.get_data_path()).encode()
        self.rate: int = self._lib.espeak_Initialize(_RETRIEVAL, 0, data, _PHONEME_EVENTS)
        if self.rate <= 0:
            raise SpeechError("espeak-ng did not find its data folder; install espeakng-loader again")
        self._chunks: list[npt.NDArray[np.int16]] = []
        self.phonemes: list[tuple[int, str]] = []  # of the last clip: (milliseconds, name)
        self.words: list[tuple[int, int]] = []  # of the last clip: (milliseconds, 0-based position in the text)
        self._callback = _Callback(self._take)  # kept alive: C only has the pointer
        self._lib.espeak_SetSynthCallback(self._callback)

    def _take(self, wav: Any, count: int, events: Any) -> int:
        index = 0
        while events and events[index].type != _LIST_END:
            event = events[index]
            if event.type == _PHONEME:
                self.phonemes.append((event.audio_position, event.id.decode("utf-8", "replace")))
            elif event.type == _WORD:
                self.words.append((event.audio_position, event.text_position - 1))
            index += 1
        if wav and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        return 0

    def speak(
        self, text: str, voice: str, rate: int = WORDS_PER_MINUTE, pitch: int = 50, spread: int = 50
    ) -> npt.NDArray[np.float32]:
        """Mono float32 samples in [-1, 1] at ``self.rate``.

        Args:
            text: what to say.
            voice: such as ``"en-us"`` or ``"en-us+f3"``.
            rate: words per minute.
            pitch: 0 to 100.
            spread: range of the pitch, 0 to 100.

        Raises:
            SpeechError: the voice is unknown, or there is no sound.

        """
        self._chunks.clear()
        self.phonemes.clear()
        self.words.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechError(f"espeak-ng has no voice {voice!r}; use a voice such as en-us, or en-us+f3")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, spread)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        self._lib.espeak_Synchronize()
        if not self._chunks:
            raise SpeechError(f"espeak-ng returned no sound for {text!r}; give words")
        samples: npt.NDArray[np.float32] = np.concatenate(self._chunks).astype(np.float32)
        samples /= 32768
        return samples

    def unload(self) -> None:
        """Unload the library, so that the next one starts without state."""
        import _ctypes

        self._lib.espeak_Terminate()
        handle = self._lib._handle
        if sys.platform == "win32":
            _ctypes.FreeLibrary(handle)
        else:
            _ctypes.dlclose(handle)


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """One library for the process, for callers that accept samples that differ from run to run."""
    return Espeak()


@dataclass(frozen=True)
class EspeakEngine(Engine):
    """eSpeak NG, offline. A clip does not depend on the clips before it."""

    name: ClassVar[str] = "espeak"
    default_voice: ClassVar[str] = "en-us"

    def __post_init__(self) -> None:
        _loader()

    @property
    def version(self) -> str:
        """The release of the library."""
        return _release()

    def check_voice(self, voice: str) -> None:
        """Check that the voice exists: on some names espeak loops forever, or silently uses another voice."""
        voices, variants = _voices(str(_loader().get_data_path()))
        name, _, variant = voice.partition("+")
        if name.lower() not in voices:
            hint = did_you_mean(name, voices)
            raise SpeechError(f"espeak-ng has no voice {name!r}; use a voice such as en-us, de, fr or es{hint}")
        if "+" in voice and variant not in variants:
            raise SpeechError(f"espeak-ng has no voice variant {variant!r}; use one of f1 to f5 and m1 to m8")

    def speak(self, text: str, voice: str, speed: float) -> Clip:
        """Speak with a newly loaded library: a used one continues the last clip's oscillators."""
        rate = round(WORDS_PER_MINUTE * speed)
        if not _SLOWEST <= rate <= _FASTEST:
            limits = f"{_SLOWEST / WORDS_PER_MINUTE:.2f} to {_FASTEST / WORDS_PER_MINUTE:.2f}"
            raise SpeechError(f"espeak-ng cannot speak at speed {speed:g}; use {limits}")
        library = Espeak()
        try:
            return Clip(library.speak(text, voice, rate), library.rate, voice)
        finally:
            library.unload()


def _loader() -> Any:
    try:
        import espeakng_loader
    except ImportError:
        raise MissingExtraError("eSpeak NG", "tts") from None
    return espeakng_loader


@lru_cache(maxsize=1)
def _release() -> str:
    return version("espeakng-loader")


@lru_cache(maxsize=1)
def _voices(data: str) -> tuple[frozenset[str], frozenset[str]]:
    """The voices, by the names of their files, which is what espeak accepts, and the variants."""
    voices = {path.name.lower() for path in (Path(data) / "lang").rglob("*") if path.is_file()}
    variants = frozenset(path.name for path in (Path(data) / "voices" / "!v").iterdir())
    return frozenset(voices), variants
