"""Find the language model's decoder layers in a model that vLLM loaded: this worker's, with their numbers."""

from __future__ import annotations

from typing import Any

from torch import nn

from sarsteer.errors import SteeringError

_LIST_NAMES = ("layers", "h", "blocks", "block")
_OTHER_PARTS = ("audio", "vision", "visual", "image", "encoder", "talker", "tower", "drafter", "mtp")


def local_layers(model: nn.Module, count: int) -> dict[int, nn.Module]:
    """The decoder layers of this worker, by their 0-based number in the whole model.

    A pipeline stage has placeholders for the layers of other stages, so the list has the same length everywhere.

    Args:
        model: what ``model_runner.get_model()`` returns.
        count: decoder layers of the whole model.

    Raises:
        SteeringError: no list, or more than one, looks like the decoder's layers.

    """
    root: Any = model
    if hasattr(root, "get_language_model"):  # the audio tower has .layers, too
        root = root.get_language_model()
    candidates = {
        id(module): module
        for name, module in root.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and name.split(".")[-1] in _LIST_NAMES
        and not any(part in name.lower() for part in _OTHER_PARTS)
    }
    if len(candidates) != 1:
        raise SteeringError(
            f"{type(model).__name__}: {len(candidates) or 'no'} lists of {count} layers look like its decoder; "
            "this architecture cannot be steered in vLLM yet"
        )
    (layers,) = candidates.values()
    local = {number: layer for number, layer in enumerate(layers) if type(layer).__name__ != "PPMissingLayer"}
    if not local:
        raise SteeringError(f"{type(model).__name__}: this worker has no decoder layer; use fewer pipeline stages")
    return local
