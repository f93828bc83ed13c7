"""Guards at a steered model's entry points: refuse what would not be steered exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError

# Options of generate() under which a forward's last position is not its newest token.
_REFUSED_OPTIONS = (
    "assistant_model",
    "assistant_early_exit",
    "prompt_lookup_num_tokens",
    "prefill_chunk_size",
    "use_mtp",
    "speculation_type",
    "custom_generate",
)
REFUSED_METHODS = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods of transformers' models that pack several requests into one row."""


def guarded_generate(owner: Any, session: Callable[[], AbstractContextManager[None]]) -> Callable[..., Any]:
    """``owner.generate`` that refuses options which break steering, and runs inside ``session()``."""
    generate = owner.generate

    @functools.wraps(generate)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config")
        if config is None:
            config = getattr(owner, "generation_config", None)

        def option(name: str) -> Any:
            value = kwargs.get(name)
            return value if value is not None else getattr(config, name, None)

        for name in _REFUSED_OPTIONS:
            if option(name) not in (None, False, 0):
                raise SteeringError(
                    f"{name} breaks steering: the last position of a forward is then not its newest token; "
                    "generate without it"
                )
        if option("use_cache") is False:
            raise SteeringError(
                "use_cache=False breaks steering: earlier answer tokens are then recomputed unsteered; generate with "
                "the cache"
            )
        with session():
            return generate(*args, **kwargs)

    return guarded


def refusing(name: str) -> Callable[..., Any]:
    """A replacement for a method of ``REFUSED_METHODS``."""

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise SteeringError(f"{name}() packs requests so that a forward has many last positions; use generate()")

    return refuse


def refuse_right_padding(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """A forward pre-hook: a padded last position is not a prompt token, and steering it would have no effect."""
    if torch.compiler.is_compiling():
        return
    mask = kwargs.get("attention_mask")
    if not torch.is_tensor(mask) or mask.ndim != 2:
        return
    tokens = kwargs.get("input_ids", args[0] if args else None)
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if torch.is_tensor(tokens) and tokens.shape[1] > 1 and not bool(mask[:, -1].all()):
        raise SteeringError("right-padded input: the last position is padding; set padding_side='left'")
