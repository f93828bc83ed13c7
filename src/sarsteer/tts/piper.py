"""Piper, offline neural voices, if ``piper-tts`` is installed; a voice is an ``.onnx`` file."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sarsteer.audio import Clip
from sarsteer.errors import SpeechError
from sarsteer.tts.engine import Engine


@dataclass(frozen=True)
class PiperEngine(Engine):
    """Piper. A voice is a path such as ``voices/en_US-amy-medium.onnx``; the ``.onnx.json`` file is beside it."""

    name: ClassVar[str] = "piper"
    default_voice: ClassVar[str] = ""

    def __post_init__(self) -> None:
        _ = self._library

    @cached_property
    def _library(self) -> Any:
        try:
            return importlib.import_module("piper")
        except ImportError:
            raise SpeechError("piper is not installed; run pip install piper-tts, or use the engine espeak") from None

    @cached_property
    def _voices(self) -> dict[str, Any]:
        return {}

    @property
    def version(self) -> str:
        """The release."""
        return version("piper-tts")

    def check_voice(self, voice: str) -> None:
        """Check that both of the voice's files exist."""
        for path in (voice, f"{voice}.json"):
            if not Path(path).is_file():
                raise SpeechError(f"piper: there is no file {path!r}; give a voice's .onnx file with --voice")

    def speak(self, text: str, voice: str, speed: float) -> Clip:
        """Speak, without Piper's random noise in durations and tone, so that clips are reproducible."""
        if voice not in self._voices:
            self._voices[voice] = self._library.PiperVoice.load(voice)
        options = self._library.SynthesisConfig(length_scale=1 / speed, noise_scale=0.0, noise_w_scale=0.0)
        pieces = list(self._voices[voice].synthesize(text, syn_config=options))
        if not pieces:
            raise SpeechError(f"piper returned no sound for {text!r}; give words")
        samples = np.concatenate([piece.audio_float_array for piece in pieces]).astype(np.float32)
        return Clip(samples, int(pieces[0].sample_rate), Path(voice).stem)
