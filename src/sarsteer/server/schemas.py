"""Requests in OpenAI's shape. What would change decoding, and with it the defense, is refused, not ignored.

Fields without an effect on the answer (``user``, ``metadata``, ...) are ignored. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sarsteer.server.errors import ApiError

_STRICT = ConfigDict(extra="forbid", strict=True)
Unused = Annotated[None, Field(default=None)]


class TextPart(BaseModel):
    """A text."""

    model_config = _STRICT
    type: Literal["text"]
    text: str


class RefusalPart(BaseModel):
    """An earlier refusal of the assistant."""

    model_config = _STRICT
    type: Literal["refusal"]
    refusal: str


class AudioData(BaseModel):
    """An encoded clip."""

    model_config = _STRICT
    data: str = Field(description="The file in base64, or a data URI.")
    format: Literal["wav", "mp3", "flac", "ogg"] = "wav"


class AudioPart(BaseModel):
    """A clip in OpenAI's form."""

    model_config = _STRICT
    type: Literal["input_audio"]
    input_audio: AudioData


class Url(BaseModel):
    """A data URI; an ``http(s)`` URL only where the operator allows it."""

    model_config = _STRICT
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class AudioUrlPart(BaseModel):
    """A clip as a data URI."""

    model_config = _STRICT
    type: Literal["audio_url"]
    audio_url: Url


class ImagePart(BaseModel):
    """An image as a data URI, for models that take images."""

    model_config = _STRICT
    type: Literal["image_url"]
    image_url: Url


Part = Annotated[
    TextPart | RefusalPart | AudioPart | AudioUrlPart | ImagePart,
    Field(discriminator="type"),
]


class ChatMessage(BaseModel):
    """One message. An assistant's message may be sent back as the server returned it."""

    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    name: str | None = Field(None, description="Ignored.")
    refusal: str | None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: Unused
    function_call: Unused
    tool_calls: list[Any] | None = Field(None, max_length=0)


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = _STRICT
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Ignored.")


class TextFormat(BaseModel):
    """The only format of answers."""

    model_config = _STRICT
    type: Literal["text"]


class SarsteerOptions(BaseModel):
    """What a client may ask of the defense: nothing but to see its decision."""

    model_config = _STRICT
    decision: bool = Field(False, description="Also return the decision in the body, as 'sarsteer'.")


class ChatRequest(BaseModel):
    """``POST /v1/chat/completions``."""

    model_config = _STRICT
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="0, greedy, by default.")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    sarsteer: SarsteerOptions | None = None
    # these would change decoding: only values without an effect
    frequency_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    audio: Unused
    # without an effect on the answer
    user: str | None = Field(None, description="Ignored.")
    metadata: dict[str, str] | None = Field(None, description="Ignored.")
    store: bool | None = Field(None, description="Ignored; nothing is stored.")
    service_tier: str | None = Field(None, description="Ignored.")
    safety_identifier: str | None = Field(None, description="Ignored.")
    prompt_cache_key: str | None = Field(None, description="Ignored.")
    parallel_tool_calls: bool | None = Field(None, description="Ignored.")


def parse_request(body: bytes) -> ChatRequest:
    """The request in ``body``.

    Raises:
        ApiError: it is not JSON, or not a request that this server answers; the message names the field, not its value.

    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error) from None


_FIXED = ("frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice",
          "response_format", "modalities", "audio")  # fmt: skip


def _explained(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = first["loc"]
    param = ".".join(str(part) for part in place if not (isinstance(part, str) and part[:1].isupper())) or None
    kind, message = first["type"], str(first["msg"])
    if kind == "json_invalid":
        return ApiError(400, f"the body is not valid JSON ({message.removeprefix('Invalid JSON: ')})", code="bad_json")
    if place and place[0] in _FIXED:
        message = "this server does not support it, because it could change the defense; leave it out"
    elif kind == "extra_forbidden":
        return ApiError(400, f"unknown parameter {param!r}; leave it out", code="unknown_parameter", param=param)
    return ApiError(400, f"{param}: {message}" if param else message, code="invalid_value", param=param)
