"""Find the language model's decoder layers in a model that vLLM loaded: those of this worker, with their numbers."""

from __future__ import annotations

from typing import Any

from torch import nn

from sarsteer.errors import SteeringError

_LIST_NAMES = ("layers", "h", "blocks", "block")
_OTHER_PARTS = ("audio", "vision", "visual", "image", "encoder", "talker", "tower", "drafter", "mtp")


def local_layers(model: nn.Module, count: int) -> dict[int, nn.Module]:
    """The decoder layers that this worker holds, by their 0-based number in the whole model.

    A pipeline stage keeps placeholders where other stages' layers are, so that the list is as long everywhere.

    Args:
        model: as ``model_runner.get_model()`` gives it.
        count: decoder layers of the whole model.

    Raises:
        SteeringError: no list, or more than one, looks like the decoder's layers.

    """
    root: Any = model
    if hasattr(root, "get_language_model"):  # the audio tower has .layers, too
        root = root.get_language_model()
    found = {
        id(module): module
        for name, module in root.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and name.split(".")[-1] in _LIST_NAMES
        and not any(part in name.lower() for part in _OTHER_PARTS)
    }
    if len(found) != 1:
        raise SteeringError(
            f"{type(model).__name__}: {len(found) or 'no'} lists of {count} layers look like its decoder; "
            "this architecture cannot be steered in vLLM yet"
        )
    (layers,) = found.values()
    here = {number: layer for number, layer in enumerate(layers) if type(layer).__name__ != "PPMissingLayer"}
    if not here:
        raise SteeringError(f"{type(model).__name__}: this worker holds no decoder layer; use fewer pipeline stages")
    return here
