"""From a request's messages to a conversation with decoded clips."""

from __future__ import annotations

from typing import Any

from sarsteer.errors import MessageError
from sarsteer.messages import Message
from sarsteer.server.limits import Limits
from sarsteer.server.media import read_base64, read_clip, read_image, read_url
from sarsteer.server.schemas import AudioPart, AudioUrlPart, ChatMessage, ImagePart, RefusalPart, TextPart


def read_messages(messages: list[ChatMessage], limits: Limits, rate: int | None) -> list[Message]:
    """A conversation as models take it.

    Args:
        messages: the request's.
        limits: bounds on messages, texts and media.
        rate: sampling rate in Hz that clips are resampled to; None for a model that takes no audio.

    Raises:
        MessageError, AudioError: a message is malformed or too large, or a clip is bad.

    """
    if len(messages) > limits.messages:
        raise MessageError(f"the request has {len(messages)} messages; at most {limits.messages} are accepted")
    if messages[-1].role == "assistant":
        # some chat templates would let the model continue this text: an answer that the client began
        raise MessageError("the last message is the assistant's; end with a message of the user")
    reader = _Reader(limits, rate)
    return [reader.message(message, f"message {number}") for number, message in enumerate(messages)]


class _Reader:
    def __init__(self, limits: Limits, rate: int | None) -> None:
        self._limits, self._rate = limits, rate
        self._characters = 0
        self._media = 0

    def message(self, message: ChatMessage, where: str) -> Message:
        role = "system" if message.role == "developer" else message.role
        content = message.content
        if content is None:
            if message.role != "assistant":
                raise MessageError("needs 'content'", place=where)
            content = message.refusal or ""
        if isinstance(content, str):
            return {"role": role, "content": [self._text(content, where)]}
        if not content:
            raise MessageError("'content' has no parts", place=where)
        return {"role": role, "content": [self._part(part, f"{where}, part {i}") for i, part in enumerate(content)]}

    def _text(self, text: str, where: str) -> dict[str, Any]:
        self._characters += len(text)
        if self._characters > self._limits.text_chars:
            raise MessageError(f"the texts have more than {self._limits.text_chars} characters", place=where)
        return {"type": "text", "text": text}

    def _part(self, part: Any, where: str) -> dict[str, Any]:
        if isinstance(part, TextPart):
            return self._text(part.text, where)
        if isinstance(part, RefusalPart):
            return self._text(part.refusal, where)
        self._media += 1
        if self._media > self._limits.clips:
            raise MessageError(f"the request has more than {self._limits.clips} clips and images", place=where)
        if isinstance(part, ImagePart):
            return {"type": "image", "image": read_image(read_url(part.image_url.url, where), where)}
        if isinstance(part, AudioPart):
            data = read_base64(part.input_audio.data, where)
        else:
            assert isinstance(part, AudioUrlPart)
            data = read_url(part.audio_url.url, where)
        clip = read_clip(data, where, self._limits)
        return {"type": "audio", "audio": clip if self._rate is None else clip.resampled(self._rate)}
