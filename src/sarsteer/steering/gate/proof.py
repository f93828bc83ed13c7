"""Prove that a gate decides as it says: open and closed rows, in prefill and decoding, before the first answer.

The probe's prompts stand for requests. A threshold between their scores makes one batch of an open and a closed row;
where a family probes with a single row, it is taken open and then closed. Above the gate an open row must differ by
exactly the known mark at its last position and a closed one by nothing; up to the gate nothing may differ at all. The
score must be that of the gate's own layer, from what the proof itself saw there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.hooks import GateState
from sarsteer.steering.proof import (
    STEPS,
    Probe,
    Seen,
    check_layer,
    generate_two_tokens,
    is_compiled,
    known_marks,
    recorded,
)

_FAR = 1e30
_CLOSE = 1e-3  # a float32 sum of D products against one in float64, relative to the sum of their magnitudes


@torch.no_grad()
def prove_gate(
    module: nn.Module,
    layers: Sequence[nn.Module],
    write: Callable[[torch.Tensor], None],
    state: GateState,
    gate: Gate,
    probe: Probe | None = None,
) -> None:
    """Raise ``SteeringError`` unless ``gate`` decides and is obeyed exactly; arguments as in ``prove``."""
    probe = probe or (lambda: generate_two_tokens(module, rows=2))
    marks = known_marks(layers)
    marks[: gate.layer + 1] = 0.0
    # whatever the probe's distance, it is the threshold that decides here
    bare = gate.bare()
    try:
        write(marks)
        state.write(bare)
        before, _ = recorded(layers, probe)
        scores = _check_scores(state, gate, before)
        low, high = min(scores), max(scores)
        for threshold in [(low + high) / 2] if low < (low + high) / 2 < high else [-_FAR, _FAR]:
            state.write(bare.with_threshold(threshold))
            before, after = recorded(layers, probe)
            opened = torch.tensor([[float(score > threshold)] for score in scores])
            for index in range(len(layers)):
                check_layer(index, before[index], after[index], opened * marks[index])
        if is_compiled(module):
            _prove_compiled(write, marks, state, bare, probe)
    finally:
        write(torch.zeros_like(marks))


def _check_scores(state: GateState, gate: Gate, before: Seen) -> list[float]:
    """The scores that the state holds, which must be those of layer g's last prompt positions."""
    if not before[gate.layer]:
        raise SteeringError(f"decoder layer {gate.layer} did not run in a prefill; the gate cannot decide there")
    last = before[gate.layer][0][..., -1, :].double().cpu()
    weight = gate.weight.double()
    wanted = last @ weight + gate.bias
    room = _CLOSE * (last.abs() @ weight.abs() + abs(gate.bias))
    found = [decision.score for decision in state.decisions(1.0)]
    if len(found) != len(wanted) or bool(((torch.tensor(found).double() - wanted).abs() > room).any()):
        raise SteeringError(
            f"the gate did not score the last prompt token of decoder layer {gate.layer}; "
            "something else changes this layer's output, or it ran more than once"
        )
    return found


def _prove_compiled(
    write: Callable[[torch.Tensor], None], marks: torch.Tensor, state: GateState, bare: Gate, probe: Probe
) -> None:
    state.write(bare.with_threshold(-_FAR))
    opened = probe()
    state.write(bare.with_threshold(_FAR))
    closed = probe()
    write(torch.zeros_like(marks))
    for step, a, b, c in zip(STEPS, opened, closed, probe(), strict=True):
        if torch.equal(a, c):
            raise SteeringError(f"the compiled {step} left the gate's hooks out; attach before torch.compile")
        if (b - c).abs().max() > 0.1 * (a - c).abs().max():  # kernels may round differently from run to run
            raise SteeringError(f"the compiled {step} steered what the gate is closed to; attach before torch.compile")
