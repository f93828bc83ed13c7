"""eSpeak NG with the time at which each word is spoken, which labels the frames that the encoder learns from."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_RETRIEVAL, _UTF8, _WORD = 1, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4


class _Event(ctypes.Structure):
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


@dataclass(frozen=True)
class Speech:
    """Samples at ``rate``, and (seconds, position in the text) of each spoken word; None where it is not known."""

    samples: npt.NDArray[np.float32]
    rate: int
    words: tuple[tuple[float, int], ...] | None = None


class Espeak:
    """The library, started once in this process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate: int = self._lib.espeak_Initialize(_RETRIEVAL, 0, str(espeakng_loader.get_data_path()).encode(), 0)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng did not start; install espeakng-loader again")
        self._chunks: list[npt.NDArray[np.int16]] = []
        self._words: list[tuple[float, int]] = []
        self._callback = _Callback(self._take)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _take(self, wav: Any, count: int, events: Any) -> int:
        index = 0
        while events and events[index].type != 0:
            if events[index].type == _WORD:
                self._words.append((events[index].audio_position / 1000, events[index].text_position - 1))
            index += 1
        if wav and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, rate: int, pitch: int, spread: int) -> Speech:
        """``rate`` in words a minute; ``pitch`` and ``spread`` in 0-100."""
        self._chunks.clear()
        self._words.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, spread)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        self._lib.espeak_Synchronize()
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768
        return Speech(samples, self.rate, tuple(self._words))


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """The library of this process."""
    return Espeak()
