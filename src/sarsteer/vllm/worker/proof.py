"""Prove, before the first token, that the graphs which will answer contain every layer's hook.

If a compiled or captured graph left a hook out, nothing would show it: the server would answer unsteered. After vLLM
has compiled and captured, dummy steps run with a mark on one layer at a time. The model's output must change in the
marked rows, and only there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sarsteer.errors import SteeringError
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.rows import rows_of

ROWS = 4
MARKED = [0.0, 1.0] * (ROWS // 2)
"""Strengths of the rows. In dummy requests of two tokens the second is marked: no other row attends to it."""
LEAK = 1e-2
"""How much an unmarked row may change, relative to the marked ones: kernels may sum rows in another order."""


def prove(attachment: Attachment, run: Callable[[], Any]) -> None:
    """Raise ``SteeringError`` unless every layer's hook acts in what ``run`` runs.

    Args:
        attachment: this worker's; afterwards no row is steered.
        run: runs a dummy step of ``ROWS`` tokens, and returns its hidden states ``[>= ROWS, D]`` or the intermediate
            tensors of a pipeline stage.

    """
    zeros = torch.zeros(attachment.sets, attachment.width)
    signs = signs_of(attachment.width)
    try:
        for number in attachment.layers:
            attachment.write_vectors(number, zeros)
        attachment.fill(rows_of(MARKED, attachment.sets - 1, [0] * ROWS, [1] * ROWS, [1] * ROWS))
        plain = states_of(run())
        for number in attachment.layers:
            attachment.write_vectors(number, signs.expand_as(zeros))
            marked = states_of(run())
            attachment.write_vectors(number, zeros)
            change = (marked - plain).abs().amax(-1)
            steered, others = change[1::2], change[::2]
            if not bool((steered > 0).all()) or not bool(torch.isfinite(change).all()):
                raise SteeringError(
                    f"the hook on decoder layer {number} does not act in what vLLM compiled; nothing was answered. "
                    "Clear vLLM's compile cache, or start with --enforce-eager"
                )
            if bool((others > LEAK * steered.min()).any()):
                raise SteeringError(
                    f"steering a row at decoder layer {number} changed other rows; nothing was answered"
                )
    finally:
        attachment.restore_vectors()
        attachment.clear()


def signs_of(width: int) -> torch.Tensor:
    """A mark of 1 and −1: not constant, so that no norm removes it."""
    signs = torch.ones(width)
    signs[::3] = -1
    return signs


def states_of(output: Any) -> torch.Tensor:
    """The first ``[ROWS, D]`` of what a dummy step returned, copied in float32 to the CPU."""
    tensors = getattr(output, "tensors", None)
    if tensors is not None:  # a pipeline stage returns (hidden, residual), or one hidden state
        output = torch.cat([tensors[name] for name in sorted(tensors)], dim=-1)
    rows: torch.Tensor = output[:ROWS].detach().float().cpu().clone()
    return rows
