"""The steering hook: add ``α v_l`` to the last position of a decoder layer's output, on every forward.

That is the whole method at inference: in prefill only the last prompt token, then each decoded token; with left
padding the last position of a forward is exactly that.

- The hook replaces the layer's ``forward`` on the instance. A hook of torch would send each call of the layer through
  the slow path of ``nn.Module.__call__``, which takes several times as long as the addition (``benchmarks/step.py``).
  Hooks of torch see the steered output.
- ``α v_l`` is stored in one float32 buffer per layer, on the layer's device. A new strength rewrites the buffers in
  place: compiled graphs and captured CUDA graphs use it without recompilation.
- The in-place sum promotes to float32 and rounds once to the activation's type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of

DELTA = "_sarsteer_delta"
"""Name of the buffer on a decoder layer: what the hook adds, ``[D]`` to all rows or ``[B, D]`` row by row."""


class SteeredForward:
    """A decoder layer's ``forward`` that steers: install it with ``install``.

    An object, so that a proof can record what ``forward`` returned before steering.

    Attributes:
        layer: the decoder layer; its buffer ``DELTA`` is what is added.
        forward: the ``forward`` that was replaced: the class's, or another one on the instance, as accelerate's.

    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.forward: Callable[..., Any] = layer.forward
        self._buffers: dict[str, Any] = layer._buffers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing here may depend on data or change Python state: it is traced into compiled graphs."""
        output = self.forward(*args, **kwargs)
        if output.__class__ is torch.Tensor and not torch.compiler.is_compiling():
            # what ``steer`` does, in one Python frame
            shape, delta = output.shape, self._buffers[DELTA]
            if len(shape) == 3 and delta.dtype is torch.float32:
                (output if shape[1] == 1 and delta.ndim == 1 else output.select(1, -1)).add_(delta)
                return output
        steer(self.layer, output)
        return output

    def install(self) -> Callable[[], None]:
        """Replace the layer's ``forward``; returns what restores it."""
        vars_of = vars(self.layer)
        previous = vars_of.get("forward")
        self.layer.forward = self

        def restore() -> None:
            if vars_of.get("forward") is not self:
                # replaced once more, maybe by a function that calls this one
                self.__class__ = Removed
            elif previous is None:
                del self.layer.forward
            else:
                self.layer.forward = previous

        return restore


class Removed(SteeredForward):
    """What a ``SteeredForward`` becomes that was removed while another ``forward`` was installed over it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer, not steered."""
        return self.forward(*args, **kwargs)


def steered_forward(layer: nn.Module) -> SteeredForward:
    """The hook that a decoder layer runs.

    Raises:
        SteeringError: the layer's ``forward`` was replaced after steering was attached.

    """
    found = vars(layer).get("forward")
    if not isinstance(found, SteeredForward) or isinstance(found, Removed):
        raise SteeringError(
            f"the forward of a {type(layer).__name__} was replaced after steering was attached; remove the steering, "
            "then change the model, then attach again"
        )
    return found


def steer(layer: nn.Module, output: Any) -> None:
    """Add to the last position of the layer's output, in place."""
    hidden, delta = residual_of(output), delta_of(layer)
    # a decode step is all last position: a view of it takes longer than the addition, but rows of their own need one
    whole = hidden.shape[-2] == 1 and delta.ndim == 1
    (hidden if whole else hidden.select(-2, -1)).add_(delta)


def delta_of(layer: nn.Module) -> torch.Tensor:
    """What a layer's hook adds. Its type is static, so that the check costs nothing in compiled graphs.

    Raises:
        SteeringError: the model was cast after steering was attached, which rounded the vectors.

    """
    delta: torch.Tensor = getattr(layer, DELTA)
    if delta.dtype != torch.float32:
        raise SteeringError(
            f"the model was cast to {delta.dtype} after steering was attached, which rounded the vectors; remove the "
            "steering, cast the model, and attach again"
        )
    return delta
