"""Keys of the prefix cache: no key-value block is shared between requests that are steered differently.

A block that holds a steered token must not be found by a request with other steering. Blocks whose end reaches the
last prompt token get the steering into their key; blocks before it are unsteered, and stay shared.
"""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.settings import ServerSettings
from sarsteer.vllm.strengths import applied_strength
from sarsteer.vllm.wrapper import wrap

_KEY_OF = "_sarsteer_block_key"


def install() -> None:
    """Patch how this process computes block hashes."""
    from vllm.v1.core import block_pool, kv_cache_utils

    wrap(kv_cache_utils, "generate_block_hash_extra_keys", _extra_keys)
    block_pool.generate_block_hash_extra_keys = kv_cache_utils.generate_block_hash_extra_keys


def mark_hasher(core: Any, settings: ServerSettings) -> None:
    """Make ``core`` give each request its key before its blocks are hashed. Later calls do nothing."""
    hasher = core.request_block_hasher
    if hasher is None or getattr(hasher, "_sarsteer", False):
        return

    def marking(request: Any) -> Any:
        if not hasattr(request, _KEY_OF):
            setattr(request, _KEY_OF, block_key(request, settings))
        return hasher(request)

    marking._sarsteer = True  # type: ignore[attr-defined]
    core.request_block_hasher = marking


def block_key(request: Any, settings: ServerSettings) -> tuple[str, str] | None:
    """What enters the keys of a request's steered blocks; None for a request with alpha 0."""
    strength = applied_strength(getattr(request.sampling_params, "extra_args", None), settings)
    if strength.alpha == 0:
        return None
    vector_set = settings.sets[strength.set_index]
    return ("sarsteer", f"{vector_set.digest}:{strength.alpha!r}:{request.num_prompt_tokens}")


def _extra_keys(original: Any, request: Any, start: int, end: int, mm_index: int) -> Any:
    keys, mm_index = original(request, start, end, mm_index)
    key = getattr(request, _KEY_OF, None)
    if key is not None and end >= request.num_prompt_tokens:
        keys = (*(keys or ()), key)
    return keys, mm_index
