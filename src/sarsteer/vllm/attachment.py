"""Steering on the layers of one worker: ``residual + strength[row] * vector``, as plain tensor math.

No custom op, no Python state: the hooks are traced into compiled graphs and captured in CUDA graphs, and read what is
written in place into their buffers before each step.

vLLM's layers return ``(hidden, residual)`` whose sum is the residual stream; the next layer's norm adds them. The
vector is added to ``residual``, so that fused all-reduce and norm patterns still match. The sum is made in float32 and
rounded once to the activation's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.vllm.layers import local_layers

_VECTORS, _STRENGTHS, _SETS = "_sarsteer_vectors", "_sarsteer_strengths", "_sarsteer_sets"


class Attachment:
    """The hooks and buffers of one worker.

    Args:
        model: what vLLM loaded.
        vectors: ``[S, L, D]``, one of the S vector sets each.
        max_rows: the most tokens of a step.
        device: where the layers compute.

    Raises:
        SteeringError: the decoder layers are not found, or are not as many as the vectors.

    """

    def __init__(self, model: nn.Module, vectors: torch.Tensor, max_rows: int, device: torch.device) -> None:
        self.sets, self.total, self.width = vectors.shape
        self.layers = local_layers(model, self.total)
        self.strengths = torch.zeros(max_rows, 1, dtype=torch.float32, device=device)
        self.row_sets = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._vectors = vectors.float().clone()
        self._filled: tuple[NDArray[Any], NDArray[Any]] | None = None
        for number, layer in self.layers.items():
            # one buffer a layer, a copy: the proof writes into it; the rows' buffers are shared by all
            layer.register_buffer(_VECTORS, self._vectors[:, number].to(device, copy=True), persistent=False)
            layer.register_buffer(_STRENGTHS, self.strengths, persistent=False)
            layer.register_buffer(_SETS, self.row_sets, persistent=False)
            layer.register_forward_hook(_steer_one if self.sets == 1 else _steer_many, prepend=True)

    def fill(self, strengths: NDArray[np.float32], sets: NDArray[np.int64]) -> None:
        """Set the strength and vector set of the first ``len(strengths)`` rows; later rows are padding."""
        if self._filled is not None:
            old_strengths, old_sets = self._filled
            if np.array_equal(old_strengths, strengths) and np.array_equal(old_sets, sets):
                return  # most decoding steps: the same requests, all steered
        rows = len(strengths)
        if rows > len(self.strengths):
            raise SteeringError(f"a step of {rows} tokens, where at most {len(self.strengths)} were announced")
        self.strengths[:rows, 0].copy_(torch.from_numpy(strengths))
        if self.sets > 1:
            self.row_sets[:rows].copy_(torch.from_numpy(sets))
        self._filled = (strengths, sets)

    def clear(self) -> None:
        """Steer no row."""
        self.strengths.zero_()
        self.row_sets.zero_()
        self._filled = None

    def write_vectors(self, number: int, vectors: torch.Tensor) -> None:
        """Replace one layer's vectors, ``[S, D]``, in place."""
        buffer: torch.Tensor = getattr(self.layers[number], _VECTORS)
        buffer.copy_(vectors)

    def restore_vectors(self) -> None:
        """Put the steering's own vectors back."""
        for number in self.layers:
            self.write_vectors(number, self._vectors[:, number])

    @property
    def intact(self) -> bool:
        """Whether the hooks read this steering's vectors, at this moment."""
        return all(
            torch.equal(getattr(layer, _VECTORS).cpu(), self._vectors[:, number])
            for number, layer in self.layers.items()
        )


def _stream(output: Any) -> torch.Tensor:
    """The part of a layer's output that is steered."""
    if torch.is_tensor(output):
        return output
    pair = isinstance(output, tuple) and len(output) == 2 and all(torch.is_tensor(part) for part in output)
    if pair and output[0].shape == output[1].shape:
        residual: torch.Tensor = output[1]
        return residual
    raise SteeringError("a decoder layer returned neither a hidden state nor (hidden, residual); it cannot be steered")


def _with_stream(output: Any, stream: torch.Tensor) -> Any:
    return stream if torch.is_tensor(output) else (output[0], stream)


def _steer_one(layer: nn.Module, _args: Any, output: Any) -> Any:
    stream = _stream(output)
    strengths = getattr(layer, _STRENGTHS)[: stream.shape[-2]]
    added = stream.float() + strengths * getattr(layer, _VECTORS)[0]
    return _with_stream(output, added.to(stream.dtype))


def _steer_many(layer: nn.Module, _args: Any, output: Any) -> Any:
    stream = _stream(output)
    rows = stream.shape[-2]
    vectors = getattr(layer, _VECTORS)[getattr(layer, _SETS)[:rows]]
    added = stream.float() + getattr(layer, _STRENGTHS)[:rows] * vectors
    return _with_stream(output, added.to(stream.dtype))
