"""Which options of a request are known to be steered exactly. All others are refused unless the operator allows them.

Two promises decide. Steering and the gate begin at the last prompt token, so that token must be the end of the chat
template's prompt for an answer: a client must not write the beginning of the answer. And the tokens are chosen by the
steered model: a client must not force tokens, forbid the tokens of a refusal, or read the unsteered distribution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sarsteer.errors import SteeringError

SAMPLING = frozenset(
    {
        *("n", "temperature", "top_p", "top_k", "min_p", "seed", "watermarking"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "repetition_detection"),
        *("max_tokens", "stop", "stop_token_ids", "include_stop_str_in_output"),
        *("logprobs", "logprob_token_ids", "flat_logprobs"),  # of answered tokens, which are steered
        *("detokenize", "skip_special_tokens", "spaces_between_special_tokens", "output_text_buffer_length"),
        *("output_kind", "stream_interval", "skip_clone", "skip_reading_prefix_cache", "routed_experts_prompt_start"),
        "extra_args",  # checked by its keys
    }
)
"""Fields of vLLM's ``SamplingParams`` that may have any value. A model's ``generation_config`` sets some of them."""

CHAT = frozenset(
    {
        *("messages", "model", "documents", "tools", "include_reasoning", "parallel_tool_calls"),
        *("max_tokens", "max_completion_tokens", "n", "seed", "stop", "stop_token_ids", "include_stop_str_in_output"),
        *("temperature", "top_p", "top_k", "min_p", "length_penalty", "watermarking"),
        *("presence_penalty", "frequency_penalty", "repetition_detection"),  # of answered tokens only
        *("logprobs", "top_logprobs", "logprob_token_ids", "return_tokens_as_token_ids", "return_token_ids"),
        *("return_prompt_text", "return_token_offsets", "routed_experts_prompt_start"),
        *("stream", "stream_options", "stream_interval", "skip_special_tokens", "spaces_between_special_tokens"),
        *("user", "request_id", "session_id", "priority", "cache_salt", "mm_payload", "return_mm_kwargs"),
        "truncation_side",  # does nothing without truncate_prompt_tokens
        # these become sampling parameters, which are checked
        *("logit_bias", "allowed_token_ids", "bad_words", "structured_outputs", "response_format", "tool_choice"),
        *("ignore_eos", "min_tokens", "thinking_token_budget", "prompt_logprobs", "use_beam_search", "vllm_xargs"),
    }
)
"""Fields of a chat completion that may have any value here."""

ROUTES = frozenset({"/v1/chat/completions", "/v1/chat/completions/render", "/tokenize", "/detokenize", "/ping"})
"""Routes that accept a POST. All others answer unchecked prompts, or control the server."""

OPTIONAL: Mapping[str, str] = {
    "continue_final_message": "the client writes the beginning of the answer, and it is not steered",
    "add_generation_prompt": "steering and the gate begin at another token",
    "chat_template": "the client decides where the prompt ends",
    "chat_template_kwargs": "the client decides how the prompt ends, as by enable_thinking",
    "reasoning_effort": "the client decides how the prompt ends",
    "truncate_prompt_tokens": "the client can cut the prompt's end off",
    "add_special_tokens": "the prompt is not the calibrated one",
    "mm_processor_kwargs": "the client decides how a clip is encoded",
    "media_io_kwargs": "the client decides how a clip is read",
    "repetition_penalty": "the client can discourage the words of a refusal by writing them into the prompt",
    "logit_bias": "the client can forbid the tokens of a refusal",
    "allowed_token_ids": "the client can forbid the tokens of a refusal",
    "bad_words": "the client can forbid the words of a refusal",
    "structured_outputs": "the client can forbid the words of a refusal (response_format, tool_choice)",
    "ignore_eos": "the model must continue after a refusal",
    "min_tokens": "the model must continue after a refusal",
    "thinking_token_budget": "a token is forced",
    "vllm_xargs": "other extensions read it",
    "control_tokens": "can end a turn or place a clip",
    "/v1/completions": "the client writes the whole prompt",
    "/v1/responses": "the client can continue an unfinished answer",
    "/v1/messages": "the client can write the beginning of the answer",
    "/v1/chat/completions/batch": "it was not tested",
    "/v1/audio/transcriptions": "its prompt is not the calibrated one",
    "/v1/audio/translations": "its prompt is not the calibrated one",
}
"""What an operator may allow, each with the reason why it is refused by default."""

NEVER: Mapping[str, str] = {
    "prompt_logprobs": "they show what the unsteered model would answer",
    "prompt_logprob_token_ids": "they show what the unsteered model would answer",
    "prompt_logprob_start": "it belongs to prompt_logprob_token_ids",
    "echo": "it returns log-probabilities of the prompt, which is not steered",
    "trace_decode_token_ids": "all tokens are forced",
    "kv_transfer_params": "keys and values from elsewhere are not steered as configured",
    "ec_transfer_params": "it was not tested",
}

_MEDIA = ("input_audio", "audio_url", "image_url", "video_url")
_TEMPLATE_ARGUMENTS = ("add_generation_prompt", "continue_final_message", "chat_template", "tokenize")


def parse_allowed(text: str) -> tuple[str, ...]:
    """The options and routes in a comma-separated list.

    Raises:
        SteeringError: one of them cannot be allowed.

    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name in NEVER:
            raise SteeringError(f"SARSTEER_ALLOW_REQUEST={text}: {name} cannot be allowed; {NEVER[name]}")
        if name not in OPTIONAL:
            raise SteeringError(f"SARSTEER_ALLOW_REQUEST={text}: unknown {name!r}; use some of {', '.join(OPTIONAL)}")
    return names


def refused_sampling(params: Any, default: Any, allowed: tuple[str, ...]) -> str | None:
    """Why these ``SamplingParams`` are refused; None if they are not.

    Args:
        params: the request's.
        default: those of a request that sets nothing.
        allowed: what the operator allows.

    """
    for name in type(params).__struct_fields__:
        if name.startswith("_") or name in SAMPLING or name in allowed:
            continue
        value = getattr(params, name)
        if value is not None and value != getattr(default, name) and not _is_empty(value):
            return _reason(name)
    for name in params.extra_args or {}:
        if name in NEVER or (not name.startswith("sarsteer") and "vllm_xargs" not in allowed):
            return _reason(name if name in NEVER else "vllm_xargs")
    return None


def refused_chat(request: Any, allowed: tuple[str, ...], controls: re.Pattern[str] | None = None) -> str | None:
    """Why a chat completion is refused; None if it is not.

    Args:
        request: vLLM's ``ChatCompletionRequest``.
        allowed: what the operator allows.
        controls: matches the tokenizer's control tokens.

    """
    fields = type(request).model_fields
    for name in sorted(request.model_fields_set & set(fields)):
        if name in CHAT or name in allowed:
            continue
        value = getattr(request, name)
        default = fields[name].get_default(call_default_factory=True)
        if value is not None and value != default and not _is_empty(value):
            return _reason(name)
    for name in request.chat_template_kwargs or {}:
        if name in _TEMPLATE_ARGUMENTS:
            return f"chat_template_kwargs may not contain {name}"
    last = request.messages[-1] if request.messages else {}
    role = last.get("role") if isinstance(last, Mapping) else getattr(last, "role", None)
    if role == "assistant" and "continue_final_message" not in allowed:
        return f"the last message is the assistant's: {OPTIONAL['continue_final_message']}"
    if controls is not None and "control_tokens" not in allowed:
        given = [getattr(request, name, None) for name in ("messages", "tools", "documents", "chat_template_kwargs")]
        found = next((match for text in _texts(given) if (match := controls.search(text))), None)
        if found is not None:
            return (
                f"a text contains the control token {found[0]}, which {OPTIONAL['control_tokens']}; remove it. "
                "The operator can allow control_tokens by SARSTEER_ALLOW_REQUEST"
            )
    return None


def _texts(value: Any) -> Iterator[str]:
    """All strings in a request's values, without encoded media."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if key not in _MEDIA:
                yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
    elif hasattr(value, "model_dump"):
        yield from _texts(value.model_dump())


def _is_empty(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, str)) and not value


def _reason(name: str) -> str:
    if name in OPTIONAL:
        return f"{name} is refused because {OPTIONAL[name]}; the operator can allow it by SARSTEER_ALLOW_REQUEST"
    return f"{name} is refused: {NEVER.get(name, 'it was not tested with steering')}"
