"""Conversations: messages with typed content parts, in the form of OpenAI and transformers.

A conversation is a list of messages ``{"role": ..., "content": ...}``; content is a string or a list of parts:

- ``{"type": "text", "text": "..."}``
- ``{"type": "audio", "path": "clip.wav"}``; instead of ``path`` also ``url`` (``data:``; others only if
  ``SARSTEER_ALLOW_URLS`` allows them, see ``sarsteer.urls``), ``bytes`` (an encoded file), or ``audio`` (an array, with
  ``sampling_rate``; or a path)
- ``{"type": "input_audio", "input_audio": {"data": "<base64>", "format": "wav"}}`` (the OpenAI form)

A part with a path opens a local file. Pass conversations that others wrote through ``check_untrusted`` first.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sarsteer.audio import Clip, check_length, load_clip
from sarsteer.errors import MessageError
from sarsteer.modalities import kinds, modality_of

Message = dict[str, Any]
Conversation = Sequence[Message]
ROLES = ("system", "user", "assistant", "developer", "tool")
_SYNONYMS = {"input_audio": "audio", "audio_url": "audio", "image_url": "image", "video_url": "video"}
_SOURCES = ("audio", "path", "url", "bytes", "audio_url")
_URLS = ("url", "audio_url", "image_url", "video_url")
_UNTRUSTED = frozenset({"type", "text", "input_audio", "base64", *_URLS})


def user_turn(audio: Any, text: str | None = None) -> list[Message]:
    """A conversation of one user message: a clip (path, ``Clip``, bytes, URL) and an optional text."""
    if isinstance(audio, Clip):
        part: dict[str, Any] = {
            "type": "audio",
            "audio": audio.samples,
            "sampling_rate": audio.rate,
            "name": audio.name,
        }
    elif isinstance(audio, (bytes, bytearray)):
        part = {"type": "audio", "bytes": bytes(audio)}
    else:
        part = {"type": "audio", "path": audio}
    content = [part] if text is None else [part, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


@dataclass(frozen=True)
class InputLimits:
    """Inputs that a model accepts, and what happens to a clip that is too long.

    Attributes:
        rate: sampling rate in Hz that clips are resampled to; None keeps each clip's rate.
        kinds: the types of content parts, beside text, that the model takes.
        max_seconds: the longest clip that the model encodes completely; None for no limit.
        min_clips, max_clips: bounds on the clips of one conversation.
        split: split a clip that is too long into consecutive parts, instead of refusing it.

    """

    rate: int | None
    kinds: frozenset[str] = frozenset({"audio"})
    max_seconds: float | None = None
    min_clips: int = 0
    max_clips: int | None = None
    split: bool = False


def check_conversations(conversations: Any) -> None:
    """Raise ``MessageError`` unless this is a list of conversations, not a single one."""
    if isinstance(conversations, (str, bytes, dict)) or not isinstance(conversations, Sequence):
        raise MessageError("give a list of conversations, each a list of messages")
    if any(isinstance(conversation, dict) for conversation in conversations):
        raise MessageError("give a list of conversations, each a list of messages; wrap your messages in a list")


def check_untrusted(conversation: Conversation) -> None:
    """Raise ``MessageError`` if reading this conversation would open a local file.

    For conversations that others wrote, such as a server's requests. Parts may contain text, ``input_audio``,
    ``base64``, and ``data:`` or web URLs; ``SARSTEER_ALLOW_URLS`` decides whether web URLs are opened.
    """
    for number, message in enumerate(conversation):
        content = message.get("content") if isinstance(message, dict) else None
        for index, part in enumerate(content if isinstance(content, (list, tuple)) else ()):
            if isinstance(part, dict):
                _check_untrusted_part(part, f"message {number}, part {index}")


def _check_untrusted_part(part: dict[str, Any], where: str) -> None:
    unknown = sorted(str(key) for key in part if key not in _UNTRUSTED)
    if unknown:
        raise MessageError(
            f"{', '.join(unknown)} is not accepted from others; send input_audio or a data: URL", place=where
        )
    for key in _URLS:
        value = part.get(key)
        url = value.get("url") if isinstance(value, dict) else value
        if url is None or (isinstance(url, str) and url.lower().startswith(("data:", "http://", "https://"))):
            continue
        raise MessageError(f"{key} is not a data: or web URL; encode the file as a data: URL", place=where)


def read_conversation(conversation: Conversation, limits: InputLimits) -> tuple[list[Message], list[Clip]]:
    """Check a conversation. Returns it with the values of its parts loaded, and its clips in order.

    Raises:
        MessageError: a message or part is malformed, of a type that the model does not take, or there are too many
            or too few clips.
        AudioError: a clip is invalid or too long.

    """
    if isinstance(conversation, (str, bytes, dict)) or not isinstance(conversation, Sequence) or not conversation:
        raise MessageError("a conversation must be a list of messages such as {'role': 'user', 'content': [...]}")
    messages: list[Message] = []
    clips: list[Clip] = []
    for number, message in enumerate(conversation):
        where = f"message {number}"
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise MessageError("needs 'role' and 'content'", place=where)
        if message["role"] not in ROLES:
            raise MessageError(f"unknown role {message['role']!r}; use one of {', '.join(ROLES)}", place=where)
        content = message["content"]
        if isinstance(content, str):
            parts: list[dict[str, Any]] = [{"type": "text", "text": content}]
        elif isinstance(content, Sequence) and not isinstance(content, bytes):
            parts = [p for i, part in enumerate(content) for p in _read_part(part, f"{where}, part {i}", limits, clips)]
        else:
            raise MessageError("'content' must be a string or a list of parts", place=where)
        messages.append({**message, "content": parts})
    if limits.max_clips is not None and len(clips) > limits.max_clips:
        raise MessageError(f"{len(clips)} clips in one conversation; this model takes at most {limits.max_clips}")
    if len(clips) < limits.min_clips:
        raise MessageError(
            f"{len(clips) or 'no'} clips in the conversation; this model takes at least {limits.min_clips}: add audio"
        )
    return messages, clips


def _read_part(part: Any, where: str, limits: InputLimits, clips: list[Clip]) -> list[dict[str, Any]]:
    if not isinstance(part, dict) or "type" not in part:
        raise MessageError("a part must be a dict with a 'type', such as {'type': 'text', 'text': '...'}", place=where)
    part_type = part["type"]
    if part_type == "text":
        if not isinstance(part.get("text"), str):
            raise MessageError("a text part needs 'text', a string", place=where)
        return [{"type": "text", "text": part["text"]}]
    kind = _SYNONYMS.get(part_type, part_type) if isinstance(part_type, str) else ""
    modality = modality_of(kind)
    if modality is None:
        raise MessageError(f"unknown part type {part_type!r}; use one of {', '.join(('text', *kinds()))}", place=where)
    if kind not in limits.kinds:
        accepted = ", ".join(("text", *sorted(limits.kinds)))
        raise MessageError(f"this model does not take {kind}; it takes {accepted}", place=where)
    if modality.read is not None:
        return [{"type": kind, kind: modality.read(part, where)}]
    clip = _read_audio(part, where, None if limits.split else limits.max_seconds)
    clip = clip if limits.rate is None else clip.resampled(limits.rate)
    pieces = clip.split(limits.max_seconds) if limits.split and limits.max_seconds else [clip]
    clips += pieces
    return [{"type": "audio", "audio": piece.samples} for piece in pieces]


def _read_audio(part: dict[str, Any], where: str, max_seconds: float | None) -> Clip:
    name = part.get("name")
    if isinstance(part.get("input_audio"), dict):
        try:
            data = base64.b64decode(part["input_audio"].get("data", ""), validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise MessageError("the base64 of 'input_audio' is invalid; encode the clip again", place=where) from None
        return load_clip(data, name=name or where, max_seconds=max_seconds)
    sources = [key for key in _SOURCES if part.get(key) is not None]
    if len(sources) != 1:
        raise MessageError(f"an audio part needs exactly one of {', '.join(_SOURCES[:4])}", place=where)
    source = part[sources[0]]
    if sources[0] == "audio_url" and isinstance(source, dict):
        source = source.get("url")
    if isinstance(source, Clip):
        check_length(source.seconds, source.name, max_seconds)
        return source
    if isinstance(source, (list, tuple)):
        source = np.asarray(source, dtype=np.float32)
    elif hasattr(source, "detach"):  # a torch tensor, without importing torch here
        source = source.detach().cpu().float().numpy()
    return load_clip(source, rate=part.get("sampling_rate"), name=name, max_seconds=max_seconds)
