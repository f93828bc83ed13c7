"""Read the residual stream: the output of each decoder layer at the last position of a forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError


def residual_of(output: Any) -> torch.Tensor:
    """The hidden state ``[B, T, D]`` in a decoder layer's output, which may be a tuple (remote code).

    Gemma 3n's layers carry several streams ``[S, B, T, D]``; the first is the active one, which attention and MLP read
    and write: it is the residual stream.
    """
    hidden = output[0] if isinstance(output, tuple) else output
    if not torch.is_tensor(hidden):
        raise SteeringError(f"a decoder layer returned a {type(hidden).__name__} where a hidden state was expected")
    return hidden[0] if hidden.ndim == 4 else hidden


class LastTokenCapture:
    """A context in which each forward leaves its last-token activations; hooks are removed on leaving.

    Hooks run after those registered before them: what is captured is steered where steering is attached.
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
        """``[B, L, D]`` in float32 on the CPU, of the newest forward; each may be read once."""
        missing = [index for index, row in enumerate(self._rows) if row is None]
        if missing:
            raise SteeringError(f"decoder layers {missing[:4]} did not run: these are not the model's decoder layers")
        rows = [row.float().cpu() for row in self._rows if row is not None]
        self._rows = [None] * len(self._layers)
        return torch.stack(rows, dim=1)
