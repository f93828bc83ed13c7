"""Patches of vLLM's front end: configure the engine, check requests, answer only if every worker is attached."""

from __future__ import annotations

import os
import sys
from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.vllm.engine.handshake import check_confirmed
from sarsteer.vllm.frontend import route
from sarsteer.vllm.frontend.admission import admit
from sarsteer.vllm.frontend.media import close_media_urls
from sarsteer.vllm.frontend.requests import check_chat, check_request, refuse_beam_search
from sarsteer.vllm.frontend.verification import verify
from sarsteer.vllm.settings import KEY, ServerSettings, from_environment, settings_of
from sarsteer.vllm.wrapper import wrap

_GRPC = "vllm.entrypoints.launchers.grpc_server"
_REFUSED_VARIABLES = {
    "VLLM_USE_RUST_FRONTEND": "that front end does not check requests for sarsteer",
    "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION": "a client could reuse the gate's decision for another request",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "weights may change",
}


def install() -> None:
    """Patch this process's front end, before its engine is configured."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.generate.beam_search.offline import BeamSearchOfflineMixin
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.llm_engine import LLMEngine

    wrap(EngineArgs, "create_engine_config", _create_engine_config)
    wrap(InputProcessor, "process_inputs", _process_inputs)
    wrap(LLMEngine, "__init__", _init_llm_engine)
    wrap(AsyncLLM, "__init__", _init_async)
    wrap(AsyncLLM, "add_request", _add_request)
    wrap(BeamSearchOfflineMixin, "beam_search", _offline_beams)
    wrap(BeamSearchOnlineMixin, "beam_search", _online_beams)
    wrap(OpenAIServingChat, "create_chat_completion", _create_chat_completion)
    route.install()


def _create_engine_config(original: Any, args: Any, *more: Any, **kwargs: Any) -> Any:
    config = original(args, *more, **kwargs)
    settings = from_environment()
    additional = config.additional_config
    if settings is None:
        if isinstance(additional, dict) and "sets" in (additional.get(KEY) or {}):
            raise SteeringError("additional_config configures sarsteer; set SARSTEER_STEERING instead")
        return config
    if not isinstance(additional, dict):
        raise SteeringError("--additional-config must be a JSON object if the server is steered")
    if additional.get(KEY):
        raise SteeringError("both SARSTEER_STEERING and additional_config configure sarsteer; leave one of them out")
    for variable, reason in _REFUSED_VARIABLES.items():
        if os.environ.get(variable, "0") not in ("", "0"):
            raise SteeringError(f"{variable}={os.environ[variable]}: {reason}; unset it")
    if _GRPC in sys.modules:
        raise SteeringError("--grpc: that front end does not check requests for sarsteer; start without")
    admit(config, allow_other_model=settings.allow_other_model)
    close_media_urls(config.model_config)
    text = config.model_config.hf_text_config
    settings.check_shape(config.model_config.model, text.num_hidden_layers, text.hidden_size)
    config.additional_config = {**additional, KEY: settings.to_config()}
    return config


# ---- requests ------------------------------------------------------------------------------------------------------


def _process_inputs(original: Any, processor: Any, request_id: str, prompt: Any, params: Any, *a: Any, **k: Any) -> Any:
    settings = settings_of(processor.vllm_config)
    if settings is not None:
        check_request(params, settings, resumable=bool(k.get("resumable", False)))
    return original(processor, request_id, prompt, params, *a, **k)


async def _create_chat_completion(original: Any, serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    check_chat(request, serving.engine_client.vllm_config, serving.renderer.tokenizer)
    return await original(serving, request, *args, **kwargs)


def _offline_beams(original: Any, llm: Any, *args: Any, **kwargs: Any) -> Any:
    refuse_beam_search(llm.llm_engine.vllm_config)
    return original(llm, *args, **kwargs)


async def _online_beams(original: Any, serving: Any, *args: Any, **kwargs: Any) -> Any:
    refuse_beam_search(serving.engine_client.vllm_config)
    async for output in original(serving, *args, **kwargs):
        yield output


# ---- engines -------------------------------------------------------------------------------------------------------


def _init_llm_engine(original: Any, engine: Any, *args: Any, **kwargs: Any) -> None:
    original(engine, *args, **kwargs)
    settings = settings_of(engine.vllm_config)
    if settings is not None:
        check_confirmed(engine.collective_rpc("sarsteer_status"), settings)
        _count(engine, settings)


def _init_async(original: Any, engine: Any, *args: Any, **kwargs: Any) -> None:
    original(engine, *args, **kwargs)
    settings = settings_of(engine.vllm_config)
    if settings is not None:
        _count(engine, settings)


async def _add_request(original: Any, engine: Any, request_id: str, prompt: Any, *args: Any, **kwargs: Any) -> Any:
    await verify(engine)
    settings = settings_of(engine.vllm_config)
    if settings is not None and hasattr(prompt, "sampling_params"):  # a complete request skips the input processor
        check_request(prompt.sampling_params, settings, resumable=bool(getattr(prompt, "resumable", False)))
    return await original(engine, request_id, prompt, *args, **kwargs)


def _count(engine: Any, settings: ServerSettings) -> None:
    from sarsteer.vllm.frontend.metrics import count_steered

    count_steered(engine.output_processor, settings)
