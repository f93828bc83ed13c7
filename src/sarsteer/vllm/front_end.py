"""In the process that takes requests: configure, check requests, and serve only what every worker attached."""

from __future__ import annotations

import os
from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.vllm.admission import admit
from sarsteer.vllm.engine_core import check_workers
from sarsteer.vllm.patching import wrap
from sarsteer.vllm.settings import KEY, Settings, from_environment, settings_of
from sarsteer.vllm.strengths import OverrideError, strength_of

_VERIFIED = "_sarsteer_verified"


def install() -> None:
    """Prepare this process's front end, before its engine is configured."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.generate.beam_search.offline import BeamSearchOfflineMixin
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
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
    from sarsteer.vllm import route

    route.install()


def _create_engine_config(original: Any, args: Any, *more: Any, **kwargs: Any) -> Any:
    config = original(args, *more, **kwargs)
    settings = from_environment()
    extra = config.additional_config
    if settings is None:
        if isinstance(extra, dict) and "sets" in (extra.get(KEY) or {}):
            raise SteeringError("additional_config names sarsteer; configure it by SARSTEER_STEERING instead")
        return config
    if not isinstance(extra, dict):
        raise SteeringError("--additional-config must be a JSON object beside steering")
    if extra.get(KEY):
        raise SteeringError("SARSTEER_STEERING is set and additional_config names sarsteer, too; leave one of them out")
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") == "1":
        raise SteeringError("VLLM_USE_RUST_FRONTEND: that front end checks no request for sarsteer; unset it")
    admit(config)
    text = config.model_config.hf_text_config
    first = settings.sets[0]
    if (text.num_hidden_layers, text.hidden_size) != (first.layers, first.width):
        raise SteeringError(
            f"{first.source}: has {first.layers} layers of width {first.width}, {config.model_config.model} "
            f"{text.num_hidden_layers} of {text.hidden_size}; calibrate this model"
        )
    config.additional_config = {**extra, KEY: settings.to_config()}
    return config


# ---- requests ------------------------------------------------------------------------------------------------------


def _process_inputs(original: Any, processor: Any, request_id: str, prompt: Any, params: Any, *a: Any, **k: Any) -> Any:
    settings = settings_of(processor.vllm_config)
    if settings is not None:
        check_request(params, settings, resumable=bool(k.get("resumable", False)))
    return original(processor, request_id, prompt, params, *a, **k)


def check_request(params: Any, settings: Settings, *, resumable: bool = False) -> None:
    """Raise vLLM's validation error (HTTP 400) for a request that would not be steered as the operator wants it."""
    from vllm.exceptions import VLLMValidationError

    if not hasattr(params, "extra_args") or not hasattr(params, "max_tokens"):
        raise VLLMValidationError("this server is steered, and steers answers only; pooling is refused")
    if resumable:
        raise VLLMValidationError("this server is steered; input that is streamed into a running request is refused")
    try:
        strength_of(params.extra_args, settings)
    except OverrideError as error:
        raise VLLMValidationError(str(error), parameter="vllm_xargs") from None


_BEAMS = "beam search gives its own answer back as a prompt, which would not be steered; use sampling or n > 1"


def _offline_beams(original: Any, llm: Any, *args: Any, **kwargs: Any) -> Any:
    _refuse_beams(llm.llm_engine.vllm_config)
    return original(llm, *args, **kwargs)


async def _online_beams(original: Any, serving: Any, *args: Any, **kwargs: Any) -> Any:
    _refuse_beams(serving.engine_client.vllm_config)
    async for output in original(serving, *args, **kwargs):
        yield output


def _refuse_beams(config: Any) -> None:
    from vllm.exceptions import VLLMValidationError

    if settings_of(config) is not None:
        raise VLLMValidationError(_BEAMS, parameter="use_beam_search")


# ---- engines -------------------------------------------------------------------------------------------------------


def _init_llm_engine(original: Any, engine: Any, *args: Any, **kwargs: Any) -> None:
    original(engine, *args, **kwargs)
    settings = settings_of(engine.vllm_config)
    if settings is not None:
        _check_confirmed(engine.collective_rpc("sarsteer_status"), settings)
        _count(engine, settings)


def _init_async(original: Any, engine: Any, *args: Any, **kwargs: Any) -> None:
    original(engine, *args, **kwargs)
    settings = settings_of(engine.vllm_config)
    if settings is not None:
        _count(engine, settings)


async def _add_request(original: Any, engine: Any, *args: Any, **kwargs: Any) -> Any:
    await verify(engine)
    return await original(engine, *args, **kwargs)


async def verify(engine: Any) -> None:
    """Raise ``SteeringError`` unless every worker of a running engine attached and was confirmed; asked once."""
    settings = settings_of(engine.vllm_config)
    if settings is None or getattr(engine, _VERIFIED, False):
        return
    for workers in await engine_statuses(engine):
        _check_confirmed(workers, settings)
    setattr(engine, _VERIFIED, True)


async def engine_statuses(engine: Any) -> list[list[dict[str, Any]]]:
    """The workers' statuses, of every data-parallel engine; ``collective_rpc`` would tell the first one's only."""
    found: list[list[dict[str, Any]]] = await engine.engine_core.call_utility_all_async(
        "collective_rpc", "sarsteer_status", None, (), None
    )
    return found


def _check_confirmed(statuses: list[dict[str, Any]], settings: Settings) -> None:
    check_workers(statuses, settings)
    if not all(status["confirmed"] for status in statuses):
        raise SteeringError("an engine core runs without sarsteer's plugin; check VLLM_PLUGINS on every node")


def _count(engine: Any, settings: Settings) -> None:
    from sarsteer.vllm.metrics import count_steered

    count_steered(engine.output_processor, settings)
