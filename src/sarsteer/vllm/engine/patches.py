"""Patches of vLLM's engine core: it does not start unless every worker is attached, and keys blocks by steering."""

from __future__ import annotations

from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.vllm.engine import block_keys
from sarsteer.vllm.engine.handshake import check_workers
from sarsteer.vllm.settings import settings_of
from sarsteer.vllm.wrapper import wrap

_CHECKED = "_sarsteer_checked"


def install() -> None:
    """Patch this process's engine core, before its workers compile."""
    from vllm.v1.engine.core import EngineCore

    wrap(EngineCore, "_initialize_kv_caches", _initialize_kv_caches)
    wrap(EngineCore, "preprocess_add_request", _preprocess_add_request)
    block_keys.install()


def _initialize_kv_caches(original: Any, core: Any, vllm_config: Any) -> Any:
    result = original(core, vllm_config)
    settings = settings_of(vllm_config)
    if settings is not None:
        check_workers(core.model_executor.collective_rpc("sarsteer_status"), settings)
        core.model_executor.collective_rpc("sarsteer_confirm", args=(settings.digest,))
        setattr(core, _CHECKED, True)
    return result


def _preprocess_add_request(original: Any, core: Any, request: Any) -> Any:
    settings = settings_of(core.vllm_config)
    if settings is not None:
        if not getattr(core, _CHECKED, False):
            raise SteeringError("the engine core was created before sarsteer was registered; nothing was answered")
        block_keys.mark_hasher(core, settings)
    return original(core, request)
