"""Abliterated weights: an attacker with the weights removes a direction from all that the decoder writes (2406.11717).

Every matrix that writes into the residual stream becomes ``W − r̂ r̂ᵀ W``, so that no layer can produce the refusal
direction r̂. Steering adds its vectors after the layers and is not affected by that: whether the layers above still
answer to them is what a run on such a model measures. Embeddings stay, because models share them with their head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sarsteer.errors import AttackError
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.layers import language_root

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering

WRITERS = ("o_proj", "down_proj", "out_proj", "c_proj", "dense", "fc2", "w2")
"""Names of the matrices in a decoder layer that write into the residual stream."""


def refusal_direction(steering: Steering, layer: int | None = None) -> torch.Tensor:
    """``r_l / ‖r_l‖``, ``[D]``: the direction of the calibrated refusal vector at one layer.

    Args:
        steering: what calibration learned.
        layer: 0-based; by default the layer at 60 % of the depth.

    Raises:
        AttackError: there is no such layer, or its vector is zero.

    """
    count = len(steering.refusal)
    chosen = round(0.6 * (count - 1)) if layer is None else layer
    if not 0 <= chosen < count:
        raise AttackError(f"layer must be from 0 to {count - 1}, not {chosen}")
    vector = steering.refusal[chosen].float()
    if not bool(vector.any()):
        raise AttackError(f"the refusal vector of layer {chosen} is zero; choose another layer")
    unit: torch.Tensor = vector / vector.norm()
    return unit


@contextmanager
def abliterated(model: AudioLanguageModel, direction: torch.Tensor) -> Iterator[int]:
    """A context in which the model's layers and audio projector cannot write ``direction``; it restores the weights.

    Args:
        model: a model with weights in a floating-point type.
        direction: ``[D]``, of any length.

    Yields:
        the number of changed matrices.

    Raises:
        AttackError: the direction does not fit, or no matrix is known that writes into the residual stream.

    """
    width = model.hidden_size
    if direction.shape != (width,) or not torch.isfinite(direction).all() or not bool(direction.any()):
        raise AttackError(f"the direction must have {width} finite values that are not all 0, not {direction.shape}")
    unit = direction.double() / direction.double().norm()
    linears = _writers(model)
    if not linears:
        raise AttackError(f"{model.name}: no matrix is known that writes into its residual stream")
    saved = [(one, {name: value.detach().clone() for name, value in one.named_parameters()}) for one in linears]
    try:
        with torch.no_grad():
            for one in linears:
                for value in one.parameters():
                    r = unit.to(value.device)
                    wide = value.double()
                    value.copy_(wide - (torch.outer(r, r @ wide) if wide.ndim == 2 else r * (r @ wide)))
        model.clip_cache.clear()
        yield len(linears)
    finally:
        with torch.no_grad():
            for one, before in saved:
                for name, value in one.named_parameters():
                    value.copy_(before[name])
        model.clip_cache.clear()


def _writers(model: AudioLanguageModel) -> list[nn.Linear]:
    root: Any = language_root(model.module)
    parts: list[nn.Module] = [
        part
        for layer in model.decoder_layers
        for name, part in layer.named_modules()
        if name.rpartition(".")[2] in WRITERS
    ]
    projector = getattr(getattr(root, "model", root), "multi_modal_projector", None)
    if isinstance(projector, nn.Module):
        inner = [part for part in projector.modules() if isinstance(part, nn.Linear)]
        parts += inner[-1:]
    return [part for part in parts if isinstance(part, nn.Linear) and part.out_features == model.hidden_size]
