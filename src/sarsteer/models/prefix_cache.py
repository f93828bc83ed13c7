"""Which key-value caches can be cropped and continued.

Keys and values of plain attention can. Layers with a sliding window keep only their newest positions; here they get a
cache that keeps all, and the window is a part of the attention's mask. A recurrent or convolutional state cannot be
taken back to an earlier position: such models are refused.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sarsteer.models.layers import language_root, text_config

_PLAIN = ("DynamicLayer", "DummyLayer")
"""``DummyLayer`` stands for a layer without keys and values of its own."""
_WINDOW = "DynamicSlidingWindowLayer"


def state_refusal(module: nn.Module) -> str | None:
    """Why a cache of ``module`` cannot be cropped, as a clause; None if it can."""
    others = sorted(set(_layer_kinds(module)) - {*_PLAIN, _WINDOW})
    if others:
        return f"its decoder keeps a state besides keys and values ({', '.join(others)}), which cannot be cropped"
    return None


def has_windows(module: nn.Module) -> bool:
    """Whether some layers of ``module`` attend to their newest positions only."""
    return _WINDOW in _layer_kinds(module)


def empty_cache(module: nn.Module) -> Any:
    """A cache for a prefill that is continued; None if the model's own will do."""
    if not has_windows(module):
        return None
    from transformers import DynamicCache

    return DynamicCache()  # without the configuration, every layer keeps all positions


def _layer_kinds(module: nn.Module) -> list[str]:
    """The class of each layer's cache, as transformers would choose it."""
    from transformers import DynamicCache

    root: Any = language_root(module)
    if type(root).__module__.startswith("transformers_modules."):
        return []  # remote code has a cache of its own
    return [type(layer).__name__ for layer in DynamicCache(config=text_config(root)).layers]
