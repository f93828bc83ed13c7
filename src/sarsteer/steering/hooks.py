"""The steering hook: add ``α v_l`` to the last position of a decoder layer's output, on every forward.

That is the whole method at inference: in prefill only the last prompt token, then each decoded token; with left
padding the last position of a forward is exactly that.

- ``α v_l`` is stored in one float32 buffer per layer, on the layer's device. A new strength rewrites the buffers in
  place: compiled graphs and captured CUDA graphs use it without recompilation.
- The in-place sum promotes to float32 and rounds once to the activation's type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of

DELTA = "_sarsteer_delta"
"""Name of the buffer on a decoder layer: what the hook adds, ``[D]`` to all rows or ``[B, D]`` row by row."""


def steer(module: nn.Module, _args: Any, output: Any) -> None:
    """The hook. Nothing here may depend on data or change Python state: it is traced into compiled graphs."""
    hidden, delta = residual_of(output), delta_of(module)
    # a decode step is all last position: a view of it takes longer than the addition, but rows of their own need one
    whole = hidden.shape[-2] == 1 and delta.ndim == 1
    (hidden if whole else hidden.select(-2, -1)).add_(delta)


def delta_of(module: nn.Module) -> torch.Tensor:
    """What a layer's hook adds. Its type is static, so that the check costs nothing in compiled graphs.

    Raises:
        SteeringError: the model was cast after steering was attached, which rounded the vectors.

    """
    delta: torch.Tensor = getattr(module, DELTA)
    if delta.dtype != torch.float32:
        raise SteeringError(
            f"the model was cast to {delta.dtype} after steering was attached, which rounded the vectors; remove the "
            "steering, cast the model, and attach again"
        )
    return delta
