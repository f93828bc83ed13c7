"""Steering on the layers of one worker: ``residual + strength[row] * vector``, as plain tensor math.

No custom op, no Python state: the hooks are traced into compiled graphs and captured in CUDA graphs, and read buffers
that are written in place before each step.

vLLM's layers return ``(hidden, residual)``, whose sum is the residual stream; the next layer's norm adds them. The
vector is added to ``residual``, so that fused all-reduce and norm patterns still match. The sum is computed in float32
and rounded once to the activations' dtype. If a vector set has a gate (``gates``), the layers above the gate's read
strengths that are multiplied by its decisions, and the layers up to it add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate
from sarsteer.vllm.worker.gates import WorkerGates
from sarsteer.vllm.worker.layers import local_layers
from sarsteer.vllm.worker.rows import Rows
from sarsteer.vllm.worker.transfer import send

_VECTORS, _STRENGTHS, _SETS = "_sarsteer_vectors", "_sarsteer_strengths", "_sarsteer_sets"
_GATES, _SCORERS = "_sarsteer_gates", "_sarsteer_gate_scorers"
_NUMBER, _READERS = "_sarsteer_layer_number", "_sarsteer_gate_readers"


class Attachment:
    """The hooks and buffers of one worker.

    Args:
        model: the model that vLLM loaded.
        vectors: ``[S, L, D]``, for each of the S vector sets.
        max_rows: the most tokens in a step.
        device: where the layers compute.
        gates: the gate of each vector set, or None.

    Raises:
        SteeringError: the decoder layers are not found, or there are not L of them; or a gate cannot decide for
            layers of this worker.

    """

    def __init__(
        self,
        model: nn.Module,
        vectors: torch.Tensor,
        max_rows: int,
        device: torch.device,
        gates: Sequence[Gate | None] = (),
    ) -> None:
        self.sets, self.total, self.width = vectors.shape
        self.layers = local_layers(model, self.total)
        self.strengths = torch.zeros(max_rows, 1, dtype=torch.float32, device=device)
        self.row_sets = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._vectors = vectors.float().clone()
        for index, gate in enumerate(gates):
            if gate is not None:
                self._vectors[index] = gate.keep_steered(self._vectors[index])
        self.gates = WorkerGates(gates, self.layers, self.row_sets, self.strengths) if any(gates) else None
        self._filled: Rows | None = None
        for number, layer in self.layers.items():
            # each layer has its own copy, which the proof writes into; the buffers of rows are shared
            layer.register_buffer(_VECTORS, self._vectors[:, number].to(device, copy=True), persistent=False)
            layer.register_buffer(_STRENGTHS, self._strengths_of(number), persistent=False)
            layer.register_buffer(_SETS, self.row_sets, persistent=False)
            layer.register_forward_hook(_steer_one if self.sets == 1 else _steer_many, prepend=True)
            scorers = self.gates.scorers if self.gates is not None else []
            reading = [scorer for scorer in scorers if number in scorer.layers[:-1]]
            deciding = [scorer for scorer in scorers if number == scorer.layer]
            if reading:
                setattr(layer, _NUMBER, number)
                setattr(layer, _READERS, nn.ModuleList(reading))
                layer.register_forward_hook(_read)
            if deciding:
                setattr(layer, _GATES, self.gates)
                setattr(layer, _SCORERS, nn.ModuleList(deciding))
                layer.register_forward_hook(_decide)

    def fill(self, rows: Rows) -> None:
        """Set the first ``len(rows)`` rows of the next step; later rows are padding."""
        if rows.equals(self._filled):
            return  # most decoding steps: the same requests, all steered
        count = len(rows)
        if count > len(self.strengths):
            raise SteeringError(f"a step has {count} tokens; vLLM announced at most {len(self.strengths)}; report this")
        send(self.strengths[:count, 0], rows.strengths)
        if self.sets > 1:
            send(self.row_sets[:count], rows.sets)
        if self.gates is not None:
            before = len(self._filled) if self._filled is not None else len(self.strengths)
            self.gates.set_rows(rows.slots, rows.decided, before)
        self._filled = rows

    def rest(self) -> None:
        """Let no row decide until rows are filled again: before forwards without requests."""
        if self.gates is not None:
            self.gates.rest()
        self._filled = None

    def clear(self) -> None:
        """Steer no row."""
        self.strengths.zero_()
        self.row_sets.zero_()
        if self.gates is not None:
            self.gates.clear()
        self._filled = None

    def write_vectors(self, number: int, vectors: torch.Tensor) -> None:
        """Replace one layer's vectors, ``[S, D]``, in place."""
        buffer: torch.Tensor = getattr(self.layers[number], _VECTORS)
        buffer.copy_(vectors)

    def restore_vectors(self) -> None:
        """Write the steering vectors back."""
        for number in self.layers:
            self.write_vectors(number, self._vectors[:, number])

    @property
    def intact(self) -> bool:
        """Whether the hooks read this attachment's vectors, gates and rows now."""
        return (self.gates is None or self.gates.intact) and all(
            getattr(layer, _STRENGTHS) is self._strengths_of(number)
            and getattr(layer, _SETS) is self.row_sets
            and getattr(layer, _GATES, self.gates) is self.gates
            and torch.equal(getattr(layer, _VECTORS).cpu(), self._vectors[:, number])
            for number, layer in self.layers.items()
        )

    def _strengths_of(self, number: int) -> torch.Tensor:
        """The buffer that a layer's hook reads: above a gate, strengths times openings."""
        return self.strengths if self.gates is None or number <= self.gates.first else self.gates.gated


def _stream(output: Any) -> torch.Tensor:
    """The tensor in a layer's output that is steered."""
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


def _read(layer: nn.Module, _args: Any, output: Any) -> None:
    """The hook of an earlier layer that gates read, after its steering."""
    stream = _sum_of(output)
    for scorer in getattr(layer, _READERS):
        scorer.read(getattr(layer, _NUMBER), stream)


def _decide(layer: nn.Module, _args: Any, output: Any) -> None:
    """The hook of the layer at which gates decide, after its steering."""
    getattr(layer, _GATES).decide(_sum_of(output), getattr(layer, _SCORERS))


def _sum_of(output: Any) -> torch.Tensor:
    """The residual stream in float32: the sum of what a layer returns."""
    return output.float() if torch.is_tensor(output) else output[0].float() + output[1].float()
