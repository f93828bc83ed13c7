"""Make the code in Kimi-Audio's checkpoint fit transformers 5. It was written for transformers 4 and breaks four ways.

1. It reads ``config.rope_theta``, which transformers 5 keeps in ``rope_parameters``: set on this one configuration.
2. It gives ``apply_rotary_pos_emb`` its ``position_ids``, where transformers 5 takes a dimension: the name is bound
   anew in the checkpoint's own module. The tables that it gives are those of the positions already.
3. Its tied keys are a list, where transformers 5 takes a mapping: set on the checkpoint's own class. It shows only
   where a configuration ties them, which the published one does not.
4. Silently: its rotary tables are filled on construction. transformers 5 constructs without storage and fills only the
   tables that it knows, so that these hold whatever lay in memory: they are computed anew after loading.

Nothing in transformers is touched.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sarsteer.errors import ModelError

_KNOWN = ("dim", "max_position_embeddings", "base")


def load_module(folder: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The checkpoint's module, fit for this transformers, and the report of its weights.

    Args:
        folder: where the checkpoint lies, its code beside it.
        options: passed to ``from_pretrained``.

    """
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if reference is None:
        raise ModelError(f"{folder}: its configuration names no code for the model; download it again")
    model_class: Any = get_class_from_dynamic_module(reference, folder)
    fit_config(config)
    fit_class(model_class)
    fit_rotation(sys.modules[model_class.__module__])
    module, report = model_class.from_pretrained(folder, config=config, output_loading_info=True, **options)
    restore_tables(module)
    return module, report


def fit_config(config: Any) -> None:
    """Put ``rope_theta`` back where the code reads it."""
    if not hasattr(config, "rope_theta"):
        config.rope_theta = config.rope_parameters["rope_theta"]


def fit_class(model_class: Any) -> None:
    """Tied keys as a mapping. transformers 4 tied the text head only, and that where the configuration says so."""
    if isinstance(model_class._tied_weights_keys, list):
        model_class._tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}


def fit_rotation(home: Any) -> None:
    """Let the checkpoint's module call ``apply_rotary_pos_emb`` as transformers 4 had it."""
    rotate = getattr(home, "apply_rotary_pos_emb", None)
    if rotate is None or "position_ids" in inspect.signature(rotate).parameters:
        return

    def as_before(q: Any, k: Any, cos: Any, sin: Any, position_ids: Any = None, unsqueeze_dim: int = 1) -> Any:
        return rotate(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)

    home.apply_rotary_pos_emb = as_before


def restore_tables(module: nn.Module) -> None:
    """Compute the rotary tables anew; refuse any other buffer that no checkpoint holds.

    Raises:
        ModelError: there is such a buffer, which would hold whatever lay in memory.

    """
    for name, part in _with_tables(module):
        if not all(hasattr(part, known) for known in _KNOWN):
            raise ModelError(f"{name} has buffers that no checkpoint holds; this version of the code is not known here")
        kind: Any = type(part)
        fresh = kind(dim=part.dim, max_position_embeddings=part.max_position_embeddings, base=part.base)
        for buffer in set(part._non_persistent_buffers_set):
            device = part.get_buffer(buffer).device
            part.register_buffer(buffer, fresh.get_buffer(buffer).to(device), persistent=False)


def tables_are_right(module: nn.Module) -> bool:
    """Whether every rotary table that is built as the published code builds it holds its angles, at position 1."""
    for _, part in _with_tables(module):
        if not all(hasattr(part, known) for known in (*_KNOWN, "cos_cached")):
            continue
        even = torch.arange(0, part.dim, 2, dtype=torch.float32)
        cosines = (1.0 / part.base ** (even / part.dim)).cos().repeat(2)
        found = part.cos_cached[1].float().cpu()
        # bfloat16 rounds to 2^-9; angles at any other place are off by far more in the first of them
        if found.shape != cosines.shape or not torch.allclose(found, cosines, rtol=0, atol=2**-7):
            return False
    return True


def _with_tables(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The parts with buffers that no checkpoint holds, ours aside."""
    for name, part in module.named_modules():
        if any(not buffer.startswith("_sarsteer") for buffer in part._non_persistent_buffers_set):
            yield name, part
