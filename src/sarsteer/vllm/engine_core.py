"""In each engine core: no start without every worker attached, and no key-value block shared across strengths.

A block of the prefix cache that holds a steered token must not be found by a request steered otherwise. Blocks whose
end reaches the last prompt token get the steering into their key; those before it are unsteered, and stay shared.
"""

from __future__ import annotations

from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.vllm.patching import wrap
from sarsteer.vllm.settings import Settings, settings_of
from sarsteer.vllm.strengths import applied_strength

_KEY_OF = "_sarsteer_block_key"
_CHECKED = "_sarsteer_checked"


def install() -> None:
    """Prepare this process's engine core, before its workers compile."""
    from vllm.v1.core import block_pool, kv_cache_utils
    from vllm.v1.engine.core import EngineCore

    wrap(EngineCore, "_initialize_kv_caches", _initialize_kv_caches)
    wrap(EngineCore, "preprocess_add_request", _preprocess_add_request)
    wrap(kv_cache_utils, "generate_block_hash_extra_keys", _extra_keys)
    block_pool.generate_block_hash_extra_keys = kv_cache_utils.generate_block_hash_extra_keys


def _initialize_kv_caches(original: Any, core: Any, vllm_config: Any) -> Any:
    result = original(core, vllm_config)
    settings = settings_of(vllm_config)
    if settings is not None:
        check_workers(core.model_executor.collective_rpc("sarsteer_status"), settings)
        core.model_executor.collective_rpc("sarsteer_confirm", args=(settings.digest,))
        setattr(core, _CHECKED, True)
    return result


def check_workers(statuses: list[dict[str, Any]], settings: Settings) -> None:
    """Raise ``SteeringError`` unless every worker attached these vectors, proved them, and all layers are covered."""
    covered: set[int] = set()
    for number, status in enumerate(statuses):
        where = f"worker {status.get('rank', number)}" if isinstance(status, dict) else f"worker {number}"
        if not isinstance(status, dict) or status.get("digest") != settings.digest:
            raise SteeringError(f"{where} did not attach the steering vectors; nothing was answered")
        if not status["proven"]:
            raise SteeringError(f"{where} did not prove its steering; nothing was answered")
        covered |= set(status["layers"])
    missing = sorted(set(range(settings.sets[0].layers)) - covered)
    if missing or not statuses:
        raise SteeringError(f"no worker steers decoder layers {missing[:4]}; nothing was answered")


def _preprocess_add_request(original: Any, core: Any, request: Any) -> Any:
    settings = settings_of(core.vllm_config)
    if settings is not None:
        if not getattr(core, _CHECKED, False):
            raise SteeringError("the engine core was made before sarsteer was registered; nothing was answered")
        _mark_hasher(core, settings)
    return original(core, request)


def _mark_hasher(core: Any, settings: Settings) -> None:
    """Give each request its key before its blocks are hashed."""
    hasher = core.request_block_hasher
    if hasher is None or getattr(hasher, "_sarsteer", False):
        return

    def marking(request: Any) -> Any:
        if not hasattr(request, _KEY_OF):
            setattr(request, _KEY_OF, block_key(request, settings))
        return hasher(request)

    marking._sarsteer = True  # type: ignore[attr-defined]
    core.request_block_hasher = marking


def block_key(request: Any, settings: Settings) -> tuple[str, str] | None:
    """What enters the keys of a request's steered blocks; None for a request of strength 0."""
    strength = applied_strength(getattr(request.sampling_params, "extra_args", None), settings)
    if strength.alpha == 0:
        return None
    one = settings.sets[strength.index]
    return ("sarsteer", f"{one.digest}:{strength.alpha!r}:{request.num_prompt_tokens}")


def _extra_keys(original: Any, request: Any, start: int, end: int, mm_index: int) -> Any:
    keys, mm_index = original(request, start, end, mm_index)
    key = getattr(request, _KEY_OF, None)
    if key is not None and end >= request.num_prompt_tokens:
        keys = (*(keys or ()), key)
    return keys, mm_index
