"""Types of content parts beside text: how each is checked, and where its value goes.

Audio, image and video are built in. Register a new type:

    register_modality(Modality("haptic", processor_key="haptics", read=read_vibration))

Its parts (``{"type": "haptic", "path": ...}``) are then checked by ``read`` and passed to the processor as
``processor_key``; the chat template places them. Rows of a manifest may have a ``"haptic"`` file.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sarsteer.errors import MessageError, MissingExtraError
from sarsteer.urls import is_url, shown

Read = Callable[[dict[str, Any], str], Any]
"""From a part and its place in the conversation to the processor's value; raises ``MessageError``."""


@dataclass(frozen=True)
class Modality:
    """A type of content part.

    Attributes:
        kind: the part's ``type``, such as ``"image"``.
        processor_key: the processor's keyword argument for the values, one list per conversation. None if the chat
            template loads them from the parts, as for audio, images and videos.
        read: checks a part and returns its value. None for audio, whose clips need the model's rate and window.

    """

    kind: str
    processor_key: str | None = None
    read: Read | None = None


_MODALITIES: dict[str, Modality] = {}


def register_modality(modality: Modality) -> None:
    """Register a type of part, or replace the one of that name.

    Raises:
        MessageError: the type is built in, or the modality is incomplete.

    """
    if modality.kind in ("text", *BUILT_IN):
        raise MessageError(f"modality {modality.kind!r} is built in; register another kind")
    if not modality.kind.isidentifier() or modality.read is None or modality.processor_key is None:
        raise MessageError("a modality needs a kind that is an identifier, a 'read' function and a processor_key")
    _MODALITIES[modality.kind] = modality


def modality_of(kind: str) -> Modality | None:
    """The modality of a type of part, or None."""
    return _MODALITIES.get(kind)


def kinds() -> tuple[str, ...]:
    """Every type beside text, in the order of registration."""
    return tuple(_MODALITIES)


def registered() -> tuple[Modality, ...]:
    """The modalities that are not built in."""
    return tuple(m for m in _MODALITIES.values() if m.kind not in BUILT_IN)


def part_bytes(part: dict[str, Any], where: str) -> bytes | None:
    """The encoded bytes of a part that has ``bytes``, ``base64``, ``path``, or a ``data:`` URL."""
    if isinstance(part.get("bytes"), (bytes, bytearray)):
        return bytes(part["bytes"])
    encoded, path = part.get("base64"), part.get("path") or part.get("url")
    if isinstance(path, dict):  # the OpenAI form
        path = path.get("url")
    if isinstance(path, str) and path.startswith("data:"):
        encoded = path.partition(";base64,")[2]
    if encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise MessageError("its base64 is invalid; encode it again", place=where) from None
    if path is None:
        return None
    name = local_path(path, where)
    try:
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise MessageError(f"{name}: no such file; check the path", place=where) from None
    except OSError as error:
        raise MessageError(f"{name}: cannot be read ({error.strerror or error})", place=where) from None


def local_path(path: str | os.PathLike[str], where: str) -> str:
    """The path of a local file. A URL is an error: only clips are read from URLs (``sarsteer.urls``)."""
    name = os.fspath(path)
    if is_url(name):
        raise MessageError(f"{shown(name)}: download the file yourself; only clips are read from URLs", place=where)
    return name


def _read_image(part: dict[str, Any], where: str) -> Any:
    """A PIL image in RGB, from ``image`` (a PIL image or ``[H, W, 3]`` of bytes) or encoded bytes."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtraError("reading images", "vision") from None
    given: Any = part.get("image", part.get("image_url"))
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    if hasattr(given, "shape"):
        try:
            return Image.fromarray(given).convert("RGB")
        except (TypeError, ValueError):
            raise MessageError("its array is not an image; give [height, width, 3] of uint8", place=where) from None
    data = part_bytes({**part, "path": given} if given is not None else part, where)
    if data is None:
        raise MessageError("an image part needs one of image, path, url, bytes, base64", place=where)
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise MessageError(f"is not a readable image ({type(error).__name__}); give PNG or JPEG", place=where) from None
    return image.convert("RGB")


def _read_video(part: dict[str, Any], where: str) -> Any:
    """Frames ``[T, H, W, 3]`` of bytes, or the path of a file that the processor decodes."""
    given: Any = part.get("video", part.get("video_url"))
    if hasattr(given, "shape"):
        if len(given.shape) != 4 or given.shape[-1] != 3 or not len(given):
            raise MessageError(f"its frames have shape {tuple(given.shape)}; give [T, height, width, 3]", place=where)
        return given
    if isinstance(given, dict):
        given = given.get("url")
    path = given or part.get("path") or part.get("url")
    if path is None:
        raise MessageError("a video part needs frames as 'video', or a path", place=where)
    name = local_path(path, where)
    if not os.path.isfile(name):
        raise MessageError(f"{name}: no such file; check the path", place=where)
    return name


BUILT_IN = ("audio", "image", "video")
_MODALITIES["audio"] = Modality("audio")
_MODALITIES["image"] = Modality("image", read=_read_image)
_MODALITIES["video"] = Modality("video", read=_read_video)
