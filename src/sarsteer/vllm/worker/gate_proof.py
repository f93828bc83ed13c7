"""Prove, before the first token, that gates decide and are obeyed in the graphs that will answer.

Dummy steps run with known marks, as in ``proof``:

1. A mark on each layer that the gate reads raises that layer's part of the score by a known amount, only in the marked
   rows, each in its request's slot; no other slot is written.
2. If the gate is open, marks on the layers above change the rows; if it is closed, they change nothing.
3. A step that decides nothing uses the earlier decision.
4. If the gate measures a distance, one beyond the limit opens a gate that its score would close.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from sarsteer.errors import SteeringError
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.gates import SCORE, GateScorer, WorkerGates
from sarsteer.vllm.worker.proof import LEAK, MARKED, ROWS, signs_of, states_of
from sarsteer.vllm.worker.rows import NOWHERE, rows_of

_FAR, _NEAR = 1e30, 1e-30
_RAISE = 16.0
"""In units of the score, where the classes' means are 2 apart: more than rounding to bfloat16 can hide."""
_SLOTS = [2, 3, 4, 5]


def prove_gates(attachment: Attachment, run: Callable[[], Any]) -> None:
    """Raise ``SteeringError`` unless every gate of this worker works in what ``run`` runs; see ``proof.prove``.

    Afterwards ``attachment`` has its own vectors and gates, and no row is steered.
    """
    if attachment.gates is None:
        return
    for scorer in attachment.gates.scorers:
        if scorer.layer not in attachment.layers:
            continue  # a pipeline stage below the gate, which the gate does not decide for
        try:
            for number in attachment.layers:
                attachment.write_vectors(number, torch.zeros(attachment.sets, attachment.width))
            _prove(attachment, attachment.gates, scorer, run)
        finally:
            scorer.put(scorer.gate)
            attachment.restore_vectors()
            attachment.clear()


def _prove(attachment: Attachment, gates: WorkerGates, scorer: GateScorer, run: Callable[[], Any]) -> None:
    name = f"the gate at decoder layer {scorer.layer}"
    bare = scorer.gate.bare()
    marks = torch.zeros(attachment.sets, attachment.width)

    def step(decide: bool) -> torch.Tensor:
        decided = _SLOTS if decide else NOWHERE
        attachment.fill(rows_of(MARKED, scorer.set_index, [0] * ROWS, [1] * ROWS, [1] * ROWS, _SLOTS, decided))
        states: torch.Tensor = states_of(run())
        return states

    def scores() -> torch.Tensor:
        return gates.decisions[_SLOTS, SCORE].cpu()

    others = torch.ones(len(gates.decisions), dtype=torch.bool)
    others[[NOWHERE, *_SLOTS]] = False
    for layer, weight in bare.weights.items():
        scorer.put(bare.with_threshold(-_FAR))  # open, or a lower set's gate would remove the mark
        scorer.isolate(layer)
        step(True)
        before = scores()
        attachment.write_vectors(layer, marks + _RAISE * weight / weight.square().sum())
        step(True)
        raised = scores() - before
        attachment.write_vectors(layer, marks)
        right = (raised[1::2] - _RAISE).abs() < 0.5 * _RAISE
        if not bool(
            right.all() and (raised[::2].abs() < 0.1 * _RAISE).all() and (gates.decisions.cpu()[others] == 1).all()
        ):
            which = "that layer" if layer == scorer.layer else f"layer {layer}"
            raise SteeringError(
                f"{name} does not score {which} in what vLLM compiled; nothing was answered. "
                "Clear vLLM's compile cache, or start with --enforce-eager"
            )
    scorer.put(bare.with_threshold(-_FAR))
    plain = step(True)

    above = [number for number in attachment.layers if number > scorer.layer]
    for number in above:
        attachment.write_vectors(number, signs_of(attachment.width).expand_as(marks))
    scale = torch.tensor(0.0)
    for opened, threshold in ((True, -_FAR), (False, _FAR)):
        scorer.put(bare.with_threshold(threshold))
        change = (step(True) - plain).abs().amax(-1)
        scorer.put(bare.with_threshold(-threshold))
        remembered = (step(False) - plain).abs().amax(-1)
        for changed, when in ((change, "as it decides"), (remembered, "as it decided before")):
            if opened:
                scale = changed[1::2].min()
                if above and not bool(scale > 0):
                    raise SteeringError(
                        f"{name} is open and the layers above do not steer {when}; nothing was answered"
                    )
            elif bool((changed > LEAK * scale).any()):
                raise SteeringError(f"{name} is closed and the layers above steer {when}; nothing was answered")
    if scorer.gate.distance is not None:
        scorer.put(replace(scorer.gate, mode="hard", threshold=_FAR, limit=_NEAR))
        change = (step(True) - plain).abs().amax(-1)
        if above and not bool((change[1::2] > 0).all()):
            raise SteeringError(f"{name} does not open for requests that are out of distribution; nothing was answered")
