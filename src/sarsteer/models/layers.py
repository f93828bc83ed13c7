"""Find a model's decoder layers: the blocks of its language model, never those of its audio encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sarsteer.errors import ModelError

_LIST_NAMES = ("layers", "h", "blocks", "block")


def unwrap(module: nn.Module) -> nn.Module:
    """The transformers model inside ``torch.compile`` and PEFT wrappers."""
    inner: Any = module
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        else:
            return inner  # type: ignore[no-any-return]


def language_root(module: nn.Module) -> Any:
    """The part with encoders and language model, without wrappers; the thinker of an omni model."""
    inner: Any = unwrap(module)
    return getattr(inner, "thinker", inner)


def generating_part(module: nn.Module) -> Any:
    """The module whose ``generate`` is called, with its wrappers; the thinker of an omni model.

    Omni wrappers ignore ``max_new_tokens`` and need a talker.
    """
    return getattr(unwrap(module), "thinker", None) or module


def find_decoder_layers(module: nn.Module, path: str | None = None) -> list[nn.Module]:
    """The decoder layers of ``module``, in order.

    The generic search removes wrappers, calls ``get_decoder()``, and takes the ``nn.ModuleList`` there whose length is
    the text configuration's ``num_hidden_layers``.

    Args:
        module: a transformers model, wrapped or not.
        path: dotted path to the layers' ``ModuleList``, such as ``"model.language_model.layers"``, if the search fails.

    Raises:
        ModelError: no module list, or more than one, looks like the decoder.

    """
    if path is not None:
        return _at_path(unwrap(module), path)
    root = language_root(module)  # leaves out the layers of an omni model's talker
    count = _layer_count(root)
    decoder = innermost_decoder(root)
    for name in _LIST_NAMES:
        layers = getattr(decoder, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers) == count:
            return list(layers)
    candidates = [
        part
        for name, part in root.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == count and name.split(".")[-1] in _LIST_NAMES
    ]
    if len(candidates) == 1:
        return list(candidates[0])
    raise ModelError(
        f"{type(root).__name__}: {len(candidates) or 'no'} lists of {count} layers look like its decoder; "
        "set layers='path.to.layers'"
    )


def _at_path(root: nn.Module, path: str) -> list[nn.Module]:
    try:
        layers = root.get_submodule(path)
    except AttributeError:
        raise ModelError(f"{type(root).__name__} has no {path!r}; print the model to see its parts") from None
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise ModelError(f"{type(root).__name__}: {path!r} is a {type(layers).__name__}, not a list of layers")
    return list(layers)


def text_config(module: nn.Module) -> Any:
    """The configuration of the language model inside ``module``."""
    config: Any = getattr(module, "config", None)
    if config is None:
        raise ModelError(f"{type(module).__name__} has no configuration; use a transformers model")
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _layer_count(root: nn.Module) -> int:
    count = getattr(text_config(root), "num_hidden_layers", None)
    if not isinstance(count, int) or count < 1:
        raise ModelError(f"{type(root).__name__}: its configuration has no num_hidden_layers; set layers='path'")
    return count


def innermost_decoder(root: nn.Module) -> nn.Module:
    """What ``get_decoder()`` returns, called until it returns nothing new: the language model without its head."""
    decoder: Any = root
    seen: set[int] = set()
    while hasattr(decoder, "get_decoder") and id(decoder) not in seen:
        seen.add(id(decoder))
        inner = decoder.get_decoder()
        if not isinstance(inner, nn.Module):
            break
        decoder = inner
    return decoder  # type: ignore[no-any-return]


def layer_device(layer: nn.Module) -> torch.device:
    """The device on which a layer computes; with offloaded weights, the device to which accelerate moves them."""
    hook = getattr(layer, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is not None:
        return torch.device(device)
    parameter = next(layer.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def hidden_size(module: nn.Module) -> int:
    """Width ``D`` of the residual stream."""
    config = text_config(language_root(module))
    size = getattr(config, "hidden_size", None)
    if not isinstance(size, int):
        raise ModelError(f"{type(module).__name__}: its configuration has no hidden_size")
    return size
