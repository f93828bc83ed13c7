"""A sample of a model's weights, by part: decoder layers, encoder, projector, embeddings, head and adapters.

A few evenly spaced elements of every parameter are read. Offloaded parameters, which have no values in the module, are
read where accelerate keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sarsteer.errors import ModelError

DECODER = "decoder layers"
ADAPTERS = "adapters"
PER_DECODER_PARAMETER = 8
PER_PARAMETER = 2
"""Elements of each parameter outside the decoder: an encoder has as many parameters as the decoder, and a tensor that
differs at all differs nearly everywhere."""

_PROJECTOR = ("projector", "projection", "connector", "merger", "adapter", "adaptor", "modal")
_ENCODER = ("audio", "speech", "sound", "vision", "visual", "image", "tower", "encoder")
_ADAPTER = "lora_"


def sampled(parameter: torch.Tensor, count: int = PER_DECODER_PARAMETER) -> torch.Tensor:
    """A copy of at most ``count`` evenly spaced elements in float32, on the parameter's device."""
    flat = parameter.detach().reshape(-1)
    step = max(1, flat.numel() // count)
    return flat[::step][:count].to(torch.float32, copy=True)


def on_cpu(samples: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The samples on the CPU, in one copy per device: each copy from a GPU waits for it."""
    out: list[torch.Tensor] = list(samples)
    for device in {sample.device for sample in samples if sample.device.type != "cpu"}:
        chosen = [i for i, sample in enumerate(samples) if sample.device == device]
        parts = torch.split(torch.cat([samples[i] for i in chosen]).cpu(), [len(samples[i]) for i in chosen])
        for i, part in zip(chosen, parts, strict=True):
            out[i] = part
    return out


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter that is not merged."""
    return _ADAPTER in name


class Values:
    """The values of a model's parameters, wherever they are."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._offloaded: dict[int, tuple[Any, str]] | None = None

    def __call__(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """The parameter with its values.

        Raises:
            ModelError: it has none: it is on the meta device, and accelerate does not keep it elsewhere.

        """
        if not parameter.is_meta:
            return parameter
        if self._offloaded is None:
            self._offloaded = dict(_offloaded(self._root))
        kept, local = self._offloaded.get(id(parameter), (None, ""))
        value = None if kept is None else kept[local]
        if not isinstance(value, torch.Tensor) or value.is_meta:
            raise ModelError(
                f"the weight {name} has no values (it is on the meta device), so the model cannot be identified; load "
                "its weights, or let accelerate offload them"
            )
        return value


def _offloaded(root: nn.Module) -> Iterator[tuple[int, tuple[Any, str]]]:
    """For each parameter that a hook of accelerate moves in: its id, the mapping that has it, and its name there."""
    for module in root.modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            kept = getattr(one, "weights_map", None)
            if kept is None:
                continue
            for name, parameter in module.named_parameters(recurse=bool(getattr(one, "place_submodules", False))):
                yield id(parameter), (kept, name)


def parts_outside_the_decoder(
    root: nn.Module, layers: Sequence[nn.Module]
) -> Mapping[str, list[tuple[str, torch.Tensor]]]:
    """The parameters outside the decoder layers, and all adapters, by part; each with its name."""
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    known = {}
    for part, module in (("head", _embedding(root, "output")), ("embeddings", _embedding(root, "input"))):
        known.update({id(parameter): part for parameter in (() if module is None else module.parameters())})
    parts: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for name, parameter in root.named_parameters():
        if is_adapter(name):
            parts.setdefault(ADAPTERS, []).append((name, parameter))
        elif id(parameter) not in inside:
            part = known.get(id(parameter)) or _part_by_name(name)
            parts.setdefault(part, []).append((name.replace(".base_layer", ""), parameter))
    return {part: sorted(found, key=lambda pair: pair[0]) for part, found in parts.items()}


def _embedding(root: Any, kind: str) -> nn.Module | None:
    try:
        found = getattr(root, f"get_{kind}_embeddings")()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def _part_by_name(name: str) -> str:
    outer = []
    for segment in name.lower().split("."):
        if segment.isdigit():
            break
        outer.append(segment)
    for part, words in (("projector", _PROJECTOR), ("encoder", _ENCODER)):
        if any(word in segment for segment in outer for word in words):
            return part
    return "other parts"
