"""Speech from eSpeak NG through ctypes: no system package, about 20 ms a clip.

``espeakng-loader`` brings the shared library and its voices. The library keeps global state, so one
process synthesises one clip at a time; ``clips.py`` uses several processes.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import espeakng_loader
import numpy as np

_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: samples come to our callback, nothing is played
_PHONEME_EVENTS = 1  # espeak_Initialize: tell when each phoneme begins
_LIST_END, _PHONEME = 0, 7  # espeak_EVENT_TYPE
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER


class _Event(ctypes.Structure):
    """``espeak_EVENT``; ``id`` is a union whose string form names the phoneme."""

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
    """The library, started once in this process."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self.rate: int = self._lib.espeak_Initialize(_RETRIEVAL, 0, data, _PHONEME_EVENTS)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng did not start: its data folder was not found")
        self._chunks: list[np.ndarray] = []
        self.phonemes: list[tuple[int, str]] = []  # of the newest clip: (milliseconds, name)
        self._callback = _Callback(self._take)  # kept alive: C holds only the pointer
        self._lib.espeak_SetSynthCallback(self._callback)

    def _take(self, wav, count: int, events) -> int:  # type: ignore[no-untyped-def]
        index = 0
        while events and events[index].type != _LIST_END:
            if events[index].type == _PHONEME:
                self.phonemes.append((events[index].audio_position, events[index].id.decode("utf-8", "replace")))
            index += 1
        if wav and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, rate: int = 175, pitch: int = 50, spread: int = 50) -> np.ndarray:
        """Mono float32 samples in [-1, 1] at ``self.rate``; words per minute, pitch and range in 0-100."""
        self._chunks.clear()
        self.phonemes.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, spread)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        self._lib.espeak_Synchronize()
        if not self._chunks:
            raise RuntimeError(f"espeak-ng said nothing for {text!r}")
        return np.concatenate(self._chunks).astype(np.float32) / 32768


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """This process's engine."""
    return Espeak()
