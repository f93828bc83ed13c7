"""Adapt the code of Kimi-Audio's checkpoint to transformers 5. It was written for transformers 4 and breaks four ways.

1. It reads ``config.rope_theta``, which transformers 5 keeps in ``rope_parameters``: set on this configuration.
2. It passes ``position_ids`` to ``apply_rotary_pos_emb``, where transformers 5 takes a dimension: the checkpoint's
   module gets a function with the old signature. The tables that it passes are indexed by position already.
3. Its tied keys are a list, where transformers 5 takes a mapping: set on the checkpoint's class. This matters only if a
   configuration ties them, which the published one does not.
4. Silently: it fills its rotary tables on construction. transformers 5 constructs without storage and fills only the
   tables that it knows, so that these hold uninitialized memory: they are computed again after loading.

Nothing in transformers is changed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sarsteer.errors import ModelError

_ARGUMENTS = ("dim", "max_position_embeddings", "base")


def load_module(folder: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The checkpoint's module, adapted to this transformers, and the report of its weights.

    Args:
        folder: the checkpoint, with its code.
        options: passed to ``from_pretrained``.

    """
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if reference is None:
        raise ModelError(f"{folder}: its config.json names no model code (auto_map); download it again")
    model_class: Any = get_class_from_dynamic_module(reference, folder)
    adapt_config(config)
    adapt_class(model_class)
    adapt_rotation(sys.modules[model_class.__module__])
    module, report = model_class.from_pretrained(folder, config=config, output_loading_info=True, **options)
    restore_tables(module)
    return module, report


def adapt_config(config: Any) -> None:
    """Set ``rope_theta``, where the code reads it."""
    if not hasattr(config, "rope_theta"):
        config.rope_theta = config.rope_parameters["rope_theta"]


def adapt_class(model_class: Any) -> None:
    """Make the tied keys a mapping. transformers 4 tied only the text head, if the configuration said so."""
    if isinstance(model_class._tied_weights_keys, list):
        model_class._tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}


def adapt_rotation(home: Any) -> None:
    """Let the checkpoint's module call ``apply_rotary_pos_emb`` with transformers 4's signature."""
    rotate = getattr(home, "apply_rotary_pos_emb", None)
    if rotate is None or "position_ids" in inspect.signature(rotate).parameters:
        return

    def with_position_ids(q: Any, k: Any, cos: Any, sin: Any, position_ids: Any = None, unsqueeze_dim: int = 1) -> Any:
        return rotate(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)

    home.apply_rotary_pos_emb = with_position_ids


def restore_tables(module: nn.Module) -> None:
    """Compute the rotary tables again; refuse any other buffer that is not stored in checkpoints.

    Raises:
        ModelError: there is such a buffer, which would hold uninitialized memory.

    """
    for name, part in _with_tables(module):
        if not all(hasattr(part, argument) for argument in _ARGUMENTS):
            raise ModelError(
                f"{name} has buffers that are not stored in checkpoints, and is not a rotary table; use the published "
                "code of Kimi-Audio"
            )
        table_class: Any = type(part)
        fresh = table_class(dim=part.dim, max_position_embeddings=part.max_position_embeddings, base=part.base)
        for buffer in set(part._non_persistent_buffers_set):
            device = part.get_buffer(buffer).device
            part.register_buffer(buffer, fresh.get_buffer(buffer).to(device), persistent=False)


def tables_are_right(module: nn.Module) -> bool:
    """Whether every rotary table that is built like the published code's holds the right angles at position 1."""
    for _, part in _with_tables(module):
        if not all(hasattr(part, name) for name in (*_ARGUMENTS, "cos_cached")):
            continue
        even = torch.arange(0, part.dim, 2, dtype=torch.float32)
        cosines = (1.0 / part.base ** (even / part.dim)).cos().repeat(2)
        stored = part.cos_cached[1].float().cpu()
        # bfloat16 rounds to 2^-9; the angles of another position differ by far more in the first of them
        if stored.shape != cosines.shape or not torch.allclose(stored, cosines, rtol=0, atol=2**-7):
            return False
    return True


def _with_tables(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The parts with buffers that are not stored in checkpoints, without those of steering."""
    for name, part in module.named_modules():
        if any(not buffer.startswith("_sarsteer") for buffer in part._non_persistent_buffers_set):
            yield name, part
