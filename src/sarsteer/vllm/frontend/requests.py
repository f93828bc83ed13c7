"""Check each request: it is refused if it would not be steered as the operator configured."""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.settings import ServerSettings, settings_of
from sarsteer.vllm.strengths import OverrideError, strength_of


def check_request(params: Any, settings: ServerSettings, *, resumable: bool = False) -> None:
    """Raise vLLM's validation error (HTTP 400) for a request that would not be steered as configured."""
    from vllm.exceptions import VLLMValidationError

    if not hasattr(params, "extra_args") or not hasattr(params, "max_tokens"):
        raise VLLMValidationError("this server is steered and only generates text; send no pooling request")
    if resumable:
        raise VLLMValidationError("this server is steered and takes no streamed input; send the whole prompt at once")
    try:
        strength_of(params.extra_args, settings)
    except OverrideError as error:
        raise VLLMValidationError(str(error), parameter="vllm_xargs") from None


def refuse_beam_search(vllm_config: Any) -> None:
    """Raise vLLM's validation error (HTTP 400) if the engine is steered."""
    from vllm.exceptions import VLLMValidationError

    if settings_of(vllm_config) is not None:
        raise VLLMValidationError(
            "beam search sends its answer back as a prompt, which is not steered; use sampling or n > 1",
            parameter="use_beam_search",
        )
