"""Read, check and resample a clip. An invalid clip is an error that says what is wrong and what to do."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sarsteer.errors import AudioError
from sarsteer.urls import fetch, is_url, shown

SILENCE = 1e-4
"""Peak amplitude below which a clip is silent (-80 dBFS), as from a microphone that is off."""


@dataclass(frozen=True)
class Clip:
    """One checked clip: mono float32 ``samples`` ``[T]`` in about [-1, 1] at ``rate`` Hz; ``name`` for messages."""

    samples: npt.NDArray[np.float32]
    rate: int
    name: str

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.rate

    @property
    def digest(self) -> str:
        """SHA-256 of rate and samples: equal audio has equal digests, whatever the files."""
        head = struct.pack("<i", self.rate)
        return hashlib.sha256(head + np.ascontiguousarray(self.samples).tobytes()).hexdigest()

    def resampled(self, rate: int) -> Clip:
        """The clip at ``rate`` Hz (soxr, high quality); the same object if it already has that rate."""
        if rate == self.rate:
            return self
        import soxr

        samples = soxr.resample(self.samples, self.rate, rate, quality="HQ").astype(np.float32)
        if not len(samples):
            raise AudioError(f"has no samples left at {rate} Hz; give a longer clip", place=self.name)
        return Clip(samples, rate, self.name)

    def split(self, max_seconds: float) -> list[Clip]:
        """The clip in consecutive pieces of at most ``max_seconds``.

        Each cut is at the quietest moment of the piece's last two seconds (or tenth, if shorter), so that words stay
        whole. Silent pieces are left out. A short clip is returned as one piece.
        """
        longest = int(max_seconds * self.rate)
        if len(self.samples) <= longest + self.rate // 1000:
            return [self]
        search = max(1, min(2 * self.rate, longest // 10))
        frame = max(1, min(self.rate // 50, search))
        pieces: list[Clip] = []
        start = 0
        while len(self.samples) - start > longest:
            tail = self.samples[start + longest - search : start + longest]
            energy = np.convolve(np.square(tail, dtype=np.float64), np.ones(frame), mode="valid")
            cut = start + longest - search + int(energy.argmin()) + frame // 2
            pieces.append(Clip(self.samples[start:cut], self.rate, f"{self.name}, from {start / self.rate:.1f} s"))
            start = cut
        pieces.append(Clip(self.samples[start:], self.rate, f"{self.name}, from {start / self.rate:.1f} s"))
        # models are not trained on silence; at least one piece is loud, because the clip was not silent
        return [piece for piece in pieces if float(np.abs(piece.samples).max()) >= SILENCE] or pieces[:1]


AudioSource = str | os.PathLike[str] | bytes | npt.NDArray[Any]


def load_clip(
    source: AudioSource, *, rate: int | None = None, name: str | None = None, max_seconds: float | None = None
) -> Clip:
    """Read a clip from a path, a URL, encoded bytes, or an array.

    A ``data`` URL is always read; other URLs only if ``SARSTEER_ALLOW_URLS`` allows it (``sarsteer.urls``).

    Args:
        source: see above. An array is ``[T]`` or ``[T, C]`` floats in [-1, 1], or integers of any width.
        rate: the array's sampling rate in Hz; required for arrays, ignored for encoded audio.
        name: the clip's name in messages; the path by default.
        max_seconds: refuse longer clips, before decoding if the header states the length.

    Raises:
        AudioError: the clip is missing, empty, truncated, not audio, silent, not finite, or too long; or its URL is
            not allowed.

    """
    if isinstance(source, np.ndarray):
        return _from_array(source, rate, name or "the audio array", max_seconds)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(bytes(source)), len(source), name or "the audio bytes", max_seconds)
    text = os.fspath(source)
    if text.startswith("data:"):
        data = _data_uri(text)
        return _decode(io.BytesIO(data), len(data), name or "the data URI", max_seconds)
    if is_url(text):
        data = fetch(text)
        return _decode(io.BytesIO(data), len(data), name or shown(text), max_seconds)
    path = Path(text)
    name = name or str(path)
    if path.is_dir():
        raise AudioError("is a folder; give an audio file", place=name)
    try:
        with open(path, "rb") as file:
            return _decode(file, path.stat().st_size, name, max_seconds)
    except FileNotFoundError:
        raise AudioError("no such file; check the path", place=name) from None
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror or error})", place=name) from None


def _decode(file: BinaryIO, size: int, name: str, max_seconds: float | None) -> Clip:
    import soundfile

    if size == 0:
        raise AudioError("is empty (0 bytes); record it again", place=name)
    _check_riff(file, size, name)
    _check_ogg(file, size, name)
    # libsndfile reads other objects through callbacks, which lose a Ctrl-C: give it the descriptor of a real file
    source = file if isinstance(file, io.BytesIO) else file.fileno()
    if isinstance(source, int):
        os.lseek(source, 0, os.SEEK_SET)  # Python's buffer is ahead of the file's own position
    try:
        with soundfile.SoundFile(source, closefd=False) as sound:
            rate, expected = int(sound.samplerate), int(sound.frames)
            check_length(expected / rate, name, max_seconds)
            samples = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise AudioError("is not a readable audio file; give WAV, FLAC, Ogg or MP3", place=name) from None
    if 0 < expected < 2**62 and len(samples) < expected * 0.99:
        raise AudioError(f"is truncated ({len(samples)} of {expected} samples); copy it again", place=name)
    return _checked(samples, rate, name, max_seconds)


def _check_riff(file: BinaryIO, size: int, name: str) -> None:
    """Refuse a WAV file whose header announces more data than there is: libsndfile reads it without an error."""
    head = file.read(12)
    file.seek(0)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    position = 12
    while position + 8 <= size:
        file.seek(position)
        tag, length = struct.unpack("<4sI", file.read(8))
        if tag == b"data":
            file.seek(0)
            streamed = length in (0, 0xFFFFFFFF, 0x7FFFFFFF)  # written to a pipe: the length was unknown
            if not streamed and position + 8 + length > size:
                raise AudioError(
                    f"is truncated (the header announces {length} bytes of audio, "
                    f"the file has {max(0, size - position - 8)}); copy it again",
                    place=name,
                )
            return
        position += 8 + length + (length & 1)
    file.seek(0)
    raise AudioError("is truncated (a WAV file without audio data); copy it again", place=name)


def _check_ogg(file: BinaryIO, size: int, name: str) -> None:
    """Refuse an Ogg file that ends within a page: decoders drop that page without an error."""
    if file.read(4) != b"OggS":
        file.seek(0)
        return
    file.seek(max(0, size - 70_000))  # a page is at most 65,307 bytes
    tail = file.read()
    file.seek(0)
    last = tail.rfind(b"OggS")
    page = tail[last:] if last >= 0 else b""
    whole = (
        len(page) >= 27 and len(page) >= 27 + page[26] and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    )
    if not whole:
        raise AudioError("is truncated (its last Ogg page is incomplete); copy it again", place=name)


def _from_array(samples: npt.NDArray[Any], rate: int | None, name: str, max_seconds: float | None) -> Clip:
    if rate is None:
        raise AudioError("has no sampling rate; add 'sampling_rate' beside the array", place=name)
    if isinstance(rate, bool) or not 1_000 <= int(rate) <= 1_000_000:
        raise AudioError(f"has an invalid sampling rate of {rate}; give it in Hz", place=name)
    if samples.ndim not in (1, 2):
        raise AudioError(f"has shape {samples.shape}; give [T] or [T, channels]", place=name)
    if np.issubdtype(samples.dtype, np.integer):
        info = np.iinfo(samples.dtype)
        middle = 0 if info.min < 0 else (info.max + 1) // 2  # 8-bit audio is unsigned, centered at 128
        samples = (samples.astype(np.float64) - middle) / (float(info.max) + 1 - middle)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"has values of type {samples.dtype}; give floats or integers", place=name)
    two = samples[:, None] if samples.ndim == 1 else samples
    if 0 < two.shape[0] < two.shape[1] and two.shape[0] <= 8:
        two = two.T  # [channels, T], as in torch
    return _checked(two, int(rate), name, max_seconds)


def _checked(samples: npt.NDArray[Any], rate: int, name: str, max_seconds: float | None) -> Clip:
    """A mono clip from samples ``[T, C]``, or an error."""
    if len(samples) == 0:
        raise AudioError("has no samples; record it again", place=name)
    if not np.isfinite(samples).all():
        raise AudioError("has NaN or infinite samples; export it again", place=name)
    mono = np.asarray(samples, dtype=np.float64).mean(axis=1).astype(np.float32)
    if not np.isfinite(mono).all() or float(np.abs(mono).max()) > 1e4:
        raise AudioError("has samples far outside [-1, 1]; scale them, or pass an integer array", place=name)
    if float(np.abs(samples).max()) < SILENCE:
        raise AudioError("is silent (peak under -80 dBFS); check the microphone or the file", place=name)
    if float(np.abs(mono).max()) < SILENCE:  # channels in opposite phase cancel each other: use the louder one
        mono = samples[:, int(np.abs(samples).sum(axis=0).argmax())].astype(np.float32)
    check_length(len(mono) / rate, name, max_seconds)
    return Clip(np.ascontiguousarray(mono), rate, name)


def check_length(seconds: float, name: str, max_seconds: float | None) -> None:
    """Raise ``AudioError`` if a clip is longer than ``max_seconds``; None for no limit."""
    if max_seconds is not None and seconds > max_seconds + 1e-3:
        raise AudioError(
            f"is {seconds:.1f} s long and this model takes at most {max_seconds:g} s; "
            "cut the clip, or split long audio (split_long_audio, --split-long-audio)",
            place=name,
        )


def _data_uri(text: str) -> bytes:
    head, comma, body = text.partition(",")
    if not comma or not head.endswith(";base64"):
        raise AudioError("is not base64; write data:audio/wav;base64,…", place="the data URI")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise AudioError("its base64 is invalid; encode the clip again", place="the data URI") from None
