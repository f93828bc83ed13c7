"""Prove, before the first token, that gates decide and are obeyed in the graphs that will answer.

Dummy steps run through them with known marks, as in ``proof``:

1. A mark on the gate's own layer that must raise the score by a known amount raises it by that, in the marked rows
   alone, each in its own request's slot; no other slot is written.
2. Where the gate is open, marks on the layers above change the rows; where it is closed, they change nothing.
3. A step that decides nothing goes by what was decided before.
4. Where distances are measured, one that is beyond the limit opens a gate that its score would close.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from sarsteer.errors import SteeringError
from sarsteer.vllm.attachment import Attachment
from sarsteer.vllm.gates import SCORE, Gates, Judge
from sarsteer.vllm.proof import LEAK, MARKED, ROWS, signs_of, states_of
from sarsteer.vllm.rows import NOWHERE, rows_of

_FAR, _NEAR = 1e30, 1e-30
_RAISE = 16.0
"""In units of the score, where the classes' means are 2 apart: more than rounding to bfloat16 can blur."""
_SLOTS = [2, 3, 4, 5]


def prove_gates(attachment: Attachment, run: Callable[[], Any]) -> None:
    """Raise ``SteeringError`` unless every gate of this worker works in what ``run`` runs; see ``proof.prove``.

    ``attachment`` is left with no row steered, and with its own vectors and gates.
    """
    if attachment.gates is None:
        return
    for judge in attachment.gates.judges:
        if judge.layer not in attachment.layers:
            continue  # a pipeline stage below the gate, which steers nothing by it
        try:
            for number in attachment.layers:
                attachment.write_vectors(number, torch.zeros(attachment.sets, attachment.width))
            _prove(attachment, attachment.gates, judge, run)
        finally:
            judge.put(judge.gate)
            attachment.restore_vectors()
            attachment.clear()


def _prove(attachment: Attachment, gates: Gates, judge: Judge, run: Callable[[], Any]) -> None:
    where = f"the gate at decoder layer {judge.layer}"
    bare = judge.gate.bare()
    judge.put(bare.with_threshold(-_FAR))  # open, or a lower set's gate would take the mark away
    marks = torch.zeros(attachment.sets, attachment.width)

    def step(decide: bool) -> torch.Tensor:
        decided = _SLOTS if decide else NOWHERE
        attachment.fill(rows_of(MARKED, judge.index, [0] * ROWS, [1] * ROWS, [1] * ROWS, _SLOTS, decided))
        states: torch.Tensor = states_of(run())
        return states

    def scores() -> torch.Tensor:
        return gates.decisions[_SLOTS, SCORE].cpu()

    plain = step(True)
    before = scores()
    attachment.write_vectors(judge.layer, marks + _RAISE * bare.weight / bare.weight.square().sum())
    step(True)
    raised = scores() - before
    attachment.write_vectors(judge.layer, marks)
    right = (raised[1::2] - _RAISE).abs() < 0.5 * _RAISE
    others = torch.ones(len(gates.decisions), dtype=torch.bool)
    others[[NOWHERE, *_SLOTS]] = False
    if not bool(
        right.all() and (raised[::2].abs() < 0.1 * _RAISE).all() and (gates.decisions.cpu()[others] == 1).all()
    ):
        raise SteeringError(
            f"{where} does not score that layer in what vLLM compiled; nothing was answered. "
            "Clear vLLM's compile cache, or start with --enforce-eager"
        )

    above = [number for number in attachment.layers if number > judge.layer]
    for number in above:
        attachment.write_vectors(number, signs_of(attachment.width).expand_as(marks))
    scale = torch.tensor(0.0)
    for opened, threshold in ((True, -_FAR), (False, _FAR)):
        judge.put(bare.with_threshold(threshold))
        change = (step(True) - plain).abs().amax(-1)
        judge.put(bare.with_threshold(-threshold))
        remembered = (step(False) - plain).abs().amax(-1)
        for found, when in ((change, "as it decides"), (remembered, "as it decided before")):
            if opened:
                scale = found[1::2].min()
                if above and not bool(scale > 0):
                    raise SteeringError(
                        f"{where} is open and the layers above do not steer {when}; nothing was answered"
                    )
            elif bool((found > LEAK * scale).any()):
                raise SteeringError(f"{where} is closed and the layers above steer {when}; nothing was answered")
    if judge.gate.distance is not None:
        judge.put(replace(judge.gate, mode="hard", threshold=_FAR, limit=_NEAR))
        change = (step(True) - plain).abs().amax(-1)
        if above and not bool((change[1::2] > 0).all()):
            raise SteeringError(f"{where} does not open for what is unlike its calibration; nothing was answered")
