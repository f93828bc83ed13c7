"""Clips whose file names are digests of all that determines their sound: an existing one is not spoken again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sarsteer.audio import SILENCE, Clip
from sarsteer.errors import SpeechError
from sarsteer.files import atomic_path
from sarsteer.tts.speaker import Speaker

_FORMAT = 1
"""Part of every clip's name: increase it if the conversion of samples to files changes."""

Turn = tuple[Speaker, str]
"""Who speaks, and what."""


def clip_name(turns: Sequence[Turn], speed: float = 1.0) -> str:
    """The file name of a clip: a digest of engines and their versions, voices, texts and speed.

    Args:
        turns: one, or several if several speakers follow each other.
        speed: relative to the engine's default.

    """
    parts: list[object] = [_FORMAT]
    for speaker, text in turns:
        parts += [speaker.engine.name, speaker.engine.version, speaker.voice, speed, text]
    return f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.wav"


def speak(speaker: Speaker, text: str, speed: float = 1.0) -> Clip:
    """Speak a text.

    Raises:
        SpeechError: it cannot be spoken, or the engine returned silence.

    """
    clip = speaker.engine.speak(text, speaker.voice, speed)
    if not len(clip.samples) or float(np.abs(clip.samples).max()) < SILENCE:
        raise SpeechError(f"{speaker.engine.name} returned silence for {text!r}; use a voice of its language")
    return clip


def speak_turns(turns: Sequence[Turn], speed: float = 1.0, pause: float = 0.3) -> Clip:
    """Speak one or several turns, with ``pause`` seconds between them, at the first voice's sampling rate.

    Raises:
        SpeechError: a turn cannot be spoken.

    """
    clips = [speak(speaker, text, speed) for speaker, text in turns]
    rate = clips[0].rate
    silence = np.zeros(round(pause * rate), np.float32)
    pieces = [piece for clip in clips for piece in (silence, clip.resampled(rate).samples)][1:]
    return Clip(np.concatenate(pieces), rate, ", ".join(str(speaker) for speaker, _ in turns))


def write_clip(path: Path, clip: Clip) -> None:
    """Write a WAV file, whole or not at all."""
    import soundfile

    samples = clip.samples / max(1.0, float(np.abs(clip.samples).max()))
    data = io.BytesIO()
    soundfile.write(data, samples, clip.rate, format="WAV", subtype="PCM_16")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getvalue())
