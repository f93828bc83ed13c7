"""What a user says: conversations of messages with typed content parts, in the OpenAI/transformers form.

A conversation is a list of messages ``{"role": ..., "content": ...}``; content is a string or a list of parts:

- ``{"type": "text", "text": "..."}``
- ``{"type": "audio", "path": "clip.wav"}``; instead of ``path`` also ``url`` (``http(s):``, ``file:``, ``data:``),
  ``bytes`` (an encoded file), or ``audio`` (an array, with ``sampling_rate``; or a path)
- ``{"type": "input_audio", "input_audio": {"data": "<base64>", "format": "wav"}}`` (the OpenAI form)
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


def user_turn(audio: Any, text: str | None = None) -> list[Message]:
    """A conversation of one user message: a clip (path, ``Clip``, bytes, URL) and, where given, a text."""
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
    """What a model can be given, and what becomes of a clip that is too long for it.

    Attributes:
        rate: sampling rate in Hz that clips are brought to; None keeps each clip's own.
        kinds: the kinds of parts beside text that the model takes.
        max_seconds: the longest clip that the model hears whole; None where there is no limit.
        min_clips, max_clips: bounds on the clips of one conversation.
        split: cut a clip that is too long into parts that follow one another, instead of refusing it.

    """

    rate: int | None
    kinds: frozenset[str] = frozenset({"audio"})
    max_seconds: float | None = None
    min_clips: int = 0
    max_clips: int | None = None
    split: bool = False


def check_conversations(conversations: Any) -> None:
    """Raise ``MessageError`` unless this is a list, and not one conversation that was given alone."""
    if isinstance(conversations, (str, bytes, dict)) or not isinstance(conversations, Sequence):
        raise MessageError("give a list of conversations, each a list of messages")
    if any(isinstance(conversation, dict) for conversation in conversations):
        raise MessageError("give a list of conversations, each a list of messages; wrap your messages in a list")


def read_conversation(conversation: Conversation, limits: InputLimits) -> tuple[list[Message], list[Clip]]:
    """Check a conversation; return it with its parts' values loaded, and its clips in order.

    Raises:
        MessageError: a message or part is malformed, of a kind that the model does not take, or there are too many or
            too few clips.
        AudioError: a clip is bad, or too long.

    """
    if isinstance(conversation, (str, bytes, dict)) or not isinstance(conversation, Sequence) or not conversation:
        raise MessageError("a conversation must be a list of messages such as {'role': 'user', 'content': [...]}")
    messages: list[Message] = []
    clips: list[Clip] = []
    for number, message in enumerate(conversation):
        where = f"message {number}"
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise MessageError(f"{where}: needs 'role' and 'content'")
        if message["role"] not in ROLES:
            raise MessageError(f"{where}: unknown role {message['role']!r}; use one of {', '.join(ROLES)}")
        content = message["content"]
        if isinstance(content, str):
            parts: list[dict[str, Any]] = [{"type": "text", "text": content}]
        elif isinstance(content, Sequence) and not isinstance(content, bytes):
            parts = [p for i, part in enumerate(content) for p in _read_part(part, f"{where}, part {i}", limits, clips)]
        else:
            raise MessageError(f"{where}: 'content' must be a string or a list of parts")
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
        raise MessageError(f"{where}: a part is a dict with a 'type', such as {{'type': 'text', 'text': '...'}}")
    given = part["type"]
    if given == "text":
        if not isinstance(part.get("text"), str):
            raise MessageError(f"{where}: a text part needs 'text', a string")
        return [{"type": "text", "text": part["text"]}]
    kind = _SYNONYMS.get(given, given) if isinstance(given, str) else ""
    modality = modality_of(kind)
    if modality is None:
        raise MessageError(f"{where}: unknown part type {given!r}; use one of {', '.join(('text', *kinds()))}")
    if kind not in limits.kinds:
        taken = ", ".join(("text", *sorted(limits.kinds)))
        raise MessageError(f"{where}: this model takes no {kind}; give it {taken}")
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
            raise MessageError(f"{where}: the base64 of 'input_audio' is damaged; encode the clip again") from None
        return load_clip(data, name=name or where, max_seconds=max_seconds)
    given = [key for key in _SOURCES if part.get(key) is not None]
    if len(given) != 1:
        raise MessageError(f"{where}: an audio part needs exactly one of {', '.join(_SOURCES[:4])}")
    source = part[given[0]]
    if given[0] == "audio_url" and isinstance(source, dict):
        source = source.get("url")
    if isinstance(source, Clip):
        check_length(source.seconds, source.name, max_seconds)
        return source
    if isinstance(source, (list, tuple)):
        source = np.asarray(source, dtype=np.float32)
    elif hasattr(source, "detach"):  # a torch tensor, without importing torch here
        source = source.detach().cpu().float().numpy()
    return load_clip(source, rate=part.get("sampling_rate"), name=name, max_seconds=max_seconds)
