"""The chat-completions format: from conversations and options to requests, from responses to texts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sarsteer.audio import Clip
from sarsteer.errors import AnswerError, AudioError, ModelError
from sarsteer.messages import Conversation, InputLimits, Message, read_conversation

AUDIO_FORMATS = {"wav": "PCM_16", "mp3": "MPEG_LAYER_III"}
"""Audio formats of requests, with soundfile's names of their encodings."""

OPTIONS = ("do_sample", "num_return_sequences", "seed", "stop", "temperature", "top_p")


def request_messages(conversation: Conversation, audio_format: str) -> list[Message]:
    """The messages of a request. Clips keep their sampling rate: the server knows which one it needs.

    Raises:
        MessageError: a message is malformed, or a part is not text, audio or image.
        AudioError: a clip is bad.

    """
    messages, clips = read_conversation(conversation, InputLimits(rate=None, kinds=frozenset({"audio", "image"})))
    next_clip = iter(clips)
    return [{**message, "content": _content(message["content"], next_clip, audio_format)} for message in messages]


def _content(parts: list[dict[str, Any]], clips: Iterator[Clip], audio_format: str) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])  # many servers take only a string in a system message
    content: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "audio":
            data = encode_clip(next(clips), audio_format)
            content.append({"type": "input_audio", "input_audio": {"data": data, "format": audio_format}})
        elif part["type"] == "image":
            content.append({"type": "image_url", "image_url": {"url": _png(part["image"])}})
        else:
            content.append(part)
    return content


def _png(image: Any) -> str:
    """A PIL image as a ``data:`` URL."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def encode_clip(clip: Clip, audio_format: str) -> str:
    """The clip as an encoded file in base64. Samples beyond [-1, 1] are scaled down, not clipped.

    Raises:
        AudioError: the format does not support the clip's sampling rate.

    """
    import soundfile

    file = io.BytesIO()
    samples = clip.samples / max(1.0, float(np.abs(clip.samples).max()))
    try:
        soundfile.write(file, samples, clip.rate, format=audio_format.upper(), subtype=AUDIO_FORMATS[audio_format])
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{clip.name}: cannot be sent as {audio_format} at {clip.rate} Hz ({error}); use audio_format='wav'"
        ) from None
    return base64.b64encode(file.getvalue()).decode()


def request_settings(
    name: str, token_limit_key: str, max_new_tokens: int, generation: dict[str, Any]
) -> dict[str, Any]:
    """The options of ``generate`` for a request; greedy unless ``do_sample`` or ``temperature`` is set.

    Raises:
        ModelError: an option is unknown, or two contradict each other.

    """
    unknown = sorted(set(generation) - set(OPTIONS))
    if unknown:
        raise ModelError(f"{name}: an API has no option {', '.join(unknown)}; use {', '.join(OPTIONS)}")
    options = {key: value for key, value in generation.items() if value is not None}
    sample = options.pop("do_sample", None)
    if sample is False and options.get("temperature"):
        raise ModelError(
            f"{name}: do_sample=False and temperature={options['temperature']} contradict each other; leave one out"
        )
    settings: dict[str, Any] = {token_limit_key: max_new_tokens, **options}
    if not sample:
        settings.setdefault("temperature", 0)
    if "num_return_sequences" in settings:
        settings["n"] = settings.pop("num_return_sequences")
    return settings


def texts_of(completion: Any, count: int, name: str) -> list[str]:
    """The ``count`` texts of a response of model ``name``, stripped; a refusal in its own field counts as a text.

    Raises:
        ModelError: the response is not a chat completion.
        AnswerError: it has fewer texts, or an empty one.

    """
    # the client does not check responses: this may be a string, or an object without the right fields
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        raise ModelError(
            f"{name}: the response is not a chat completion; check base_url, which ends in /v1 for most servers"
        )
    if len(choices) < count:
        raise AnswerError(
            f"{name}: the response has {len(choices)} of {count} answers; try again, or lower num_return_sequences"
        )
    texts: list[str] = []
    for choice in choices[:count]:
        message = getattr(choice, "message", None)
        text = _text(getattr(message, "content", None)) or _text(getattr(message, "refusal", None))
        if not text.strip():
            raise AnswerError(f"{name}: {_why_empty(getattr(choice, 'finish_reason', None))}")
        texts.append(text.strip())
    return texts


def pieces_of(chunks: Iterable[Any], name: str) -> Iterator[str]:
    """The text of a stream of model ``name``, piece by piece; joined they equal ``texts_of`` of the whole response.

    Raises:
        ModelError: the stream ended before the answer, or had no text.

    """
    started, space, finished = False, "", None
    for chunk in chunks:
        choices = getattr(chunk, "choices", None) or [None]  # a chunk may have only a token count
        finished = getattr(choices[0], "finish_reason", None) or finished
        delta = getattr(choices[0], "delta", None)
        text = space + (_text(getattr(delta, "content", None)) or _text(getattr(delta, "refusal", None)))
        piece = text.rstrip()
        space = text[len(piece) :]  # kept for the next piece: the answer is stripped at its end
        if piece:
            yield piece if started else piece.lstrip()
            started = True
    if finished is None:
        raise ModelError(f"{name}: the stream ended before the answer; try again")
    if not started:
        raise ModelError(f"{name}: {_why_empty(finished)}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _why_empty(finish_reason: Any) -> str:
    if finish_reason == "length":
        return "the answer is empty because thinking used all its tokens; increase max_new_tokens"
    if finish_reason == "content_filter":
        return "the server's content filter withheld the answer; remove this conversation, or count it as refused"
    return f"the answer is empty (finish_reason {finish_reason!r}); try again, or read the server's log"
