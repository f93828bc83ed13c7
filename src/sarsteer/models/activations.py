"""Read the residual stream: the output of each decoder layer at the last position of a forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError


def residual_of(output: Any) -> torch.Tensor:
    """The hidden state ``[B, T, D]`` in a decoder layer's output, which may be a tuple (remote code).

    Gemma 3n's layers have several streams ``[S, B, T, D]``. Attention and MLP read and write the first one: it is the
    residual stream.
    """
    hidden = output[0] if isinstance(output, tuple) else output
    if not torch.is_tensor(hidden):
        raise SteeringError(
            f"a decoder layer returned a {type(hidden).__name__} instead of a hidden state; set layers='path.to.layers'"
        )
    return hidden[0] if hidden.ndim == 4 else hidden


class LastTokenCapture:
    """A context that captures the last-token activations of each forward; it removes its hooks at the end.

    Hooks run in the order of registration: if steering is attached, the captured activations are steered.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._rows: list[torch.Tensor | None] = [None] * len(layers)
        self._hooks: list[Any] = []

    def __enter__(self) -> LastTokenCapture:
        for index, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(self._recorder(index)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _recorder(self, index: int) -> Any:
        def record(_module: nn.Module, _args: Any, output: Any) -> None:
            self._rows[index] = residual_of(output)[..., -1, :].detach().clone()

        return record

    def activations(self) -> torch.Tensor:
        """``[B, L, D]`` in float32 on the CPU, of the last forward; they can be read once."""
        missing = [index for index, row in enumerate(self._rows) if row is None]
        if missing:
            raise SteeringError(
                f"decoder layers {missing[:4]} did not run, so they are not the model's decoder layers; "
                "set layers='path.to.layers'"
            )
        rows = [row.float().cpu() for row in self._rows if row is not None]
        self._rows = [None] * len(self._layers)
        return torch.stack(rows, dim=1)
