"""Read a processor's properties, and write prompts with its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sarsteer.messages import Message
from sarsteer.modalities import registered
from sarsteer.models.control_tokens import can_sanitize, refuse_control_tokens


def sampling_rate(processor: Any) -> int:
    """The rate of the audio that the processor takes, in Hz."""
    return int(getattr(_audio_part(processor), "sampling_rate", None) or 16_000)


def audio_window(processor: Any) -> float | None:
    """The window of the feature extractor in seconds, if it has one."""
    return getattr(_audio_part(processor), "chunk_length", None)


def modalities(processor: Any) -> frozenset[str]:
    """The kinds of content parts besides text that the processor takes."""
    kinds = {"audio"} if _audio_part(processor) is not None else set()
    kinds |= {kind for kind in ("image", "video") if getattr(processor, f"{kind}_processor", None) is not None}
    listed = getattr(processor, "modalities", ())  # how a processor lists kinds of the registry
    return frozenset(kinds | {modality.kind for modality in registered() if modality.kind in listed})


def tensors_of(
    processor: Any,
    tokenizer: Any,
    conversations: list[list[Message]],
    audio_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The processor's tensors for a left-padded batch. Control tokens in a user's text stay plain text.

    Raises:
        MessageError: a text contains a control token and this transformers cannot keep it as text.

    """
    options: dict[str, Any] = dict(
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    if can_sanitize(processor):
        options["sanitize_control_tokens"] = True
    else:
        refuse_control_tokens(conversations, tokenizer)
    if processor is tokenizer:
        return dict(processor.apply_chat_template(_texts_only(conversations), padding=True, **options))
    # under "text_kwargs": a top-level padding would also replace how the family pads its audio
    values: dict[str, Any] = {"text_kwargs": {"padding": True}, **_registered_values(conversations)}
    if audio_options:
        values["audio_kwargs"] = dict(audio_options)
    return dict(processor.apply_chat_template(conversations, processor_kwargs=values, **options))


def _audio_part(processor: Any) -> Any:
    """The part of a processor that computes audio features; its name differs between families."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def _texts_only(conversations: list[list[Message]]) -> list[list[Message]]:
    """Conversations with strings as contents, as the templates of text-only models take them."""
    return [
        [{**message, "content": "".join(part["text"] for part in message["content"])} for message in conversation]
        for conversation in conversations
    ]


def _registered_values(conversations: list[list[Message]]) -> dict[str, list[list[Any]]]:
    """Arguments of the processor for registered modalities: one list per conversation."""
    rows = [[part for message in conversation for part in message["content"]] for conversation in conversations]
    arguments: dict[str, list[list[Any]]] = {}
    for modality in registered():
        values = [[part[modality.kind] for part in row if part["type"] == modality.kind] for row in rows]
        if any(values):
            arguments[str(modality.processor_key)] = values
    return arguments
