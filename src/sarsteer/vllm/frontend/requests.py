"""Check each request: it is refused if it would not be steered as the operator configured."""

from __future__ import annotations

import functools
import re
from typing import Any

from sarsteer.models.control_tokens import control_tokens
from sarsteer.vllm.request_options import refused_chat, refused_sampling
from sarsteer.vllm.settings import ServerSettings, settings_of
from sarsteer.vllm.strengths import OverrideError, strength_of


def check_request(params: Any, settings: ServerSettings, *, resumable: bool = False) -> None:
    """Raise vLLM's validation error (HTTP 400) for a request that would not be steered as configured."""
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams

    if not isinstance(params, SamplingParams):
        raise VLLMValidationError("this server is steered and only generates text; send no pooling request")
    if resumable:
        raise VLLMValidationError("this server is steered and takes no streamed input; send the whole prompt at once")
    try:
        strength_of(params.extra_args, settings)
    except OverrideError as error:
        raise VLLMValidationError(str(error), parameter="vllm_xargs") from None
    _refuse(refused_sampling(params, SamplingParams(), settings.allowed))


def check_chat(request: Any, vllm_config: Any, tokenizer: Any) -> None:
    """Raise vLLM's validation error (HTTP 400) if the engine is steered and the request's prompt would bypass that."""
    settings = settings_of(vllm_config)
    if settings is not None:
        _refuse(refused_chat(request, settings.allowed, _control_tokens(tokenizer)))


@functools.lru_cache(maxsize=1)
def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches what the tokenizer does not read as text."""
    return re.compile("|".join(re.escape(token) for token in sorted(control_tokens(tokenizer), key=len, reverse=True)))


def refuse_beam_search(vllm_config: Any) -> None:
    """Raise vLLM's validation error (HTTP 400) if the engine is steered."""
    from vllm.exceptions import VLLMValidationError

    if settings_of(vllm_config) is not None:
        raise VLLMValidationError(
            "beam search sends its answer back as a prompt, which is not steered; use sampling or n > 1",
            parameter="use_beam_search",
        )


def _refuse(reason: str | None) -> None:
    from vllm.exceptions import VLLMValidationError

    if reason is not None:
        raise VLLMValidationError(f"this server is steered: {reason}")
