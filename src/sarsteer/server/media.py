"""Decode what a client sends. A small request must not become a large one, and no path of the client's is opened."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from sarsteer.audio import Clip, load_clip
from sarsteer.errors import AudioError, MessageError, MissingExtraError
from sarsteer.server.limits import Limits
from sarsteer.urls import fetch

_PIXELS = 50_000_000
"""Largest image: 50 megapixels are 150 MB in RGB."""


def read_base64(text: str, where: str) -> bytes:
    """The bytes of base64, which may be a ``data:`` URI.

    Raises:
        MessageError: it is not base64.

    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise MessageError("the data URI is not base64; write data:audio/wav;base64,...", place=where)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MessageError("its base64 is invalid; encode the file again", place=where) from None


def read_url(url: str, where: str) -> bytes:
    """The bytes of a ``data:`` URI, or of an ``http(s)`` URL if the operator allows URLs.

    Raises:
        MessageError: another scheme, or URLs are not allowed.
        AudioError: the URL cannot be fetched within the limits on address, size and time.

    """
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        return read_base64(url, where)
    if not scheme.startswith(("http://", "https://")):
        raise MessageError("only data URIs and http(s) URLs name a file; send the file itself in base64", place=where)
    return fetch(url)


def read_clip(data: bytes, where: str, limits: Limits) -> Clip:
    """A clip in WAV, FLAC, Ogg or MP3.

    Raises:
        AudioError: another format, damaged, too long, or with too many samples once decoded.

    """
    import soundfile

    if not _is_audio(data):  # the decoder knows many more formats than clients need
        raise AudioError("is not WAV, FLAC, Ogg or MP3; convert it", place=where)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            rate, frames, channels = int(sound.samplerate), int(sound.frames), int(sound.channels)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OverflowError):
        raise AudioError("is not a readable audio file; give WAV, FLAC, Ogg or MP3", place=where) from None
    if not 1_000 <= rate <= 384_000:
        raise AudioError(f"has a sampling rate of {rate} Hz; give 1000 to 384000 Hz", place=where)
    if frames * channels > limits.samples:  # an unknown length is reported as a huge one
        raise AudioError(
            f"has {frames} samples in {channels} channels; at most {limits.samples} samples are decoded", place=where
        )
    return load_clip(data, name=where, max_seconds=limits.clip_seconds)


def read_image(data: bytes, where: str) -> Any:
    """A PIL image.

    Raises:
        MessageError: it is not PNG, JPEG, WebP or GIF, or it has too many pixels.

    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtraError("reading images", "vision") from None
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF"))
        if image.width * image.height > _PIXELS:
            raise MessageError(f"has {image.width} x {image.height} pixels; give a smaller image", place=where)
        return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise MessageError("is not a readable image; give PNG, JPEG, WebP or GIF", place=where) from None


def _is_audio(data: bytes) -> bool:
    """Whether ``data`` begins like one of the formats that are decoded."""
    head = data[:12]
    if head[:4] in (b"fLaC", b"OggS") or head[:3] == b"ID3":
        return True
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return True
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0  # an MPEG frame
