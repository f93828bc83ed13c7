"""The form of chat completions: a conversation and its options as a request, a response as texts."""

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
"""What the form allows, and soundfile's name for the encoding."""

UNDERSTOOD = ("do_sample", "num_return_sequences", "seed", "stop", "temperature", "top_p")


def request_messages(conversation: Conversation, audio_format: str) -> list[Message]:
    """The conversation as a request has it, every clip encoded at its own rate: the server knows which it needs.

    Raises:
        MessageError: a message is malformed, or a part is neither text, audio nor image.
        AudioError: a clip is bad.

    """
    messages, clips = read_conversation(conversation, InputLimits(rate=None, kinds=frozenset({"audio", "image"})))
    in_order = iter(clips)
    return [{**message, "content": _content(message["content"], in_order, audio_format)} for message in messages]


def _content(parts: list[dict[str, Any]], clips: Iterator[Clip], audio_format: str) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])  # many servers take nothing but a string in a system message
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
    """The clip as an encoded file in base64. Sound beyond [-1, 1] is made quieter, never clipped.

    Raises:
        AudioError: the format does not know the clip's rate.

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
    """Options of ``generate`` as a request has them; greedy unless sampling is asked for.

    Raises:
        ModelError: an option is unknown, or two contradict each other.

    """
    unknown = sorted(set(generation) - set(UNDERSTOOD))
    if unknown:
        raise ModelError(f"{name}: an API takes no option {', '.join(unknown)}; it understands {', '.join(UNDERSTOOD)}")
    given = {key: value for key, value in generation.items() if value is not None}
    sample = given.pop("do_sample", None)
    if sample is False and given.get("temperature"):
        raise ModelError(f"{name}: do_sample=False and temperature={given['temperature']} contradict; give one of them")
    settings: dict[str, Any] = {token_limit_key: max_new_tokens, **given}
    if not sample:
        settings.setdefault("temperature", 0)
    if "num_return_sequences" in settings:
        settings["n"] = settings.pop("num_return_sequences")
    return settings


def texts_of(completion: Any, count: int, where: str) -> list[str]:
    """The ``count`` texts of a response, stripped; a refusal in its own field is a text like another.

    Raises:
        ModelError: it is no chat completion.
        AnswerError: it holds fewer texts, or an empty one.

    """
    # the client checks no response: it may be a string, or an object without its fields
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        raise ModelError(
            f"{where}the response is no chat completion; check that base_url ends as the server wants, in /v1"
        )
    if len(choices) < count:
        raise AnswerError(f"{where}the response holds {len(choices)} of {count} answers; try again, or ask for fewer")
    texts: list[str] = []
    for choice in choices[:count]:
        message = getattr(choice, "message", None)
        text = _text(getattr(message, "content", None)) or _text(getattr(message, "refusal", None))
        if not text.strip():
            raise AnswerError(where + _why_empty(getattr(choice, "finish_reason", None)))
        texts.append(text.strip())
    return texts


def pieces_of(chunks: Iterable[Any], where: str) -> Iterator[str]:
    """The text of streamed chunks, piece by piece; joined they are what ``texts_of`` gives of the whole.

    Raises:
        ModelError: the stream ended before the answer, or held no text.

    """
    said, space, finished = False, "", None
    for chunk in chunks:
        choices = getattr(chunk, "choices", None) or [None]  # a chunk may hold nothing but a count of tokens
        finished = getattr(choices[0], "finish_reason", None) or finished
        delta = getattr(choices[0], "delta", None)
        text = space + (_text(getattr(delta, "content", None)) or _text(getattr(delta, "refusal", None)))
        piece = text.rstrip()
        space = text[len(piece) :]  # held back, for the answer may end here
        if piece:
            yield piece if said else piece.lstrip()
            said = True
    if finished is None:
        raise ModelError(f"{where}the stream ended before the answer did; try again")
    if not said:
        raise ModelError(where + _why_empty(finished))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _why_empty(finish_reason: Any) -> str:
    if finish_reason == "length":
        return "the answer is empty, all its tokens went into thinking; raise max_new_tokens"
    if finish_reason == "content_filter":
        return "the server's content filter withheld the answer; drop this conversation, or count it as refused"
    return f"the answer is empty (finish_reason {finish_reason!r}); try again, or look into the server's log"
