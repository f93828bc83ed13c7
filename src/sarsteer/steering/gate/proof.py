"""Prove the gate's decisions: open and closed rows, in prefill and decoding, before the first answer.

A threshold between the scores of the probe's prompts makes one batch of an open and a closed row; a family that probes
with a single row runs it open and then closed. Above the gate's layer an open row must differ by exactly the known mark
at its last position, a closed row by nothing; up to that layer nothing may differ. The score must be that of the
activations that the proof itself recorded at the layers that the gate reads.
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
    LayerOutputs,
    Probe,
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
    factors: torch.Tensor | None = None,
) -> None:
    """Raise ``SteeringError`` unless ``gate`` decides and the hooks follow it exactly; arguments as in ``prove``."""
    probe = probe or (lambda: generate_two_tokens(module, rows=2))
    marks = known_marks(layers, factors)
    marks[: gate.layer + 1] = 0.0
    bare = gate.bare()  # without a distance limit, so that the threshold decides
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


def _check_scores(state: GateState, gate: Gate, before: LayerOutputs) -> list[float]:
    """The scores in the state, which must be those of the last prompt positions of the layers that the gate reads."""
    expected = torch.tensor(gate.bias).double()
    tolerance = expected.abs()
    for layer, weight in gate.weights.items():
        if not before[layer]:
            raise SteeringError(f"decoder layer {layer} did not run in a prefill; use a gate at another layer")
        last = before[layer][0][..., -1, :].double().cpu()
        expected = expected + last @ weight.double()
        tolerance = tolerance + last.abs() @ weight.double().abs()
    scores = [decision.score for decision in state.decisions(1.0)]
    if len(scores) != len(expected) or bool(
        ((torch.tensor(scores).double() - expected).abs() > _CLOSE * tolerance).any()
    ):
        places = " and ".join(map(str, gate.layers))
        raise SteeringError(
            f"the gate did not score the last prompt token of decoder layer {places}; "
            "something else changes this layer's output (remove other hooks), or the layer ran more than once"
        )
    return scores


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
            raise SteeringError(f"the compiled {step} does not contain the gate's hooks; attach before torch.compile")
        if (b - c).abs().max() > 0.1 * (a - c).abs().max():  # kernels may round differently from run to run
            raise SteeringError(
                f"the compiled {step} steered a request with the gate closed; attach before torch.compile"
            )
