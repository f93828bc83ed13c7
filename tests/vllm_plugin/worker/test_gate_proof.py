"""The proof finds a gate that does not decide, is not obeyed, or forgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.gate_proof import prove_gates
from sarsteer.vllm.worker.proof import ROWS, prove
from sarsteer.vllm.worker.rows import NOWHERE, OPEN
from tests.support.vllm_parts import (
    GATE_LAYER,
    WIDTH,
    forward,
    gate_at,
    gate_of_layers,
    gate_with_distance,
    gated_requests,
)


def attachment_and_step(*gates: Gate | None) -> tuple[Attachment, Any]:
    _, attachment, decoder = gated_requests(*gates)
    start = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))
    return attachment, lambda: forward(decoder, start)


def test_the_proof_passes_and_restores_everything() -> None:
    attachment, run = attachment_and_step(gate_with_distance(limit=2.0), None, gate_of_layers(0, 1, 2))
    prove(attachment, run)
    prove_gates(attachment, run)
    assert attachment.gates is not None
    assert attachment.intact
    assert (attachment.gates.decided == NOWHERE).all()
    assert (attachment.gates.slots == OPEN).all()
    attachment.gates.scorers[1].put(gate_of_layers(0, 1, 2, threshold=0.5))
    assert not attachment.intact


def test_the_proof_fails_if_a_gate_does_not_decide() -> None:
    attachment, run = attachment_and_step(gate_at())
    hooks = attachment.layers[GATE_LAYER]._forward_hooks
    del hooks[list(hooks)[-1]]
    with pytest.raises(SteeringError, match="the gate at decoder layer 1 does not score that layer"):
        prove_gates(attachment, run)


@pytest.mark.parametrize("place", [0, 1])
def test_the_proof_fails_if_a_gate_does_not_read_a_layer(place: int) -> None:
    attachment, run = attachment_and_step(gate_of_layers(0, 1, 2))
    hooks = attachment.layers[place]._forward_hooks
    del hooks[list(hooks)[-1]]
    with pytest.raises(SteeringError, match=f"the gate at decoder layer 2 does not score layer {place}"):
        prove_gates(attachment, run)


def test_the_proof_fails_if_a_layer_ignores_the_gate() -> None:
    attachment, run = attachment_and_step(gate_at())
    attachment.layers[3]._buffers["_sarsteer_strengths"] = attachment.strengths  # as if it had no gate
    with pytest.raises(SteeringError, match="is closed and the layers above steer as it decides"):
        prove_gates(attachment, run)


def test_the_proof_fails_if_decisions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    attachment, run = attachment_and_step(gate_at())
    assert attachment.gates is not None
    decide = attachment.gates.decide

    def forgetful(h: torch.Tensor, scorers: Any) -> None:
        attachment.gates.decided.copy_(attachment.gates.slots)  # type: ignore[union-attr]
        decide(h, scorers)

    monkeypatch.setattr(attachment.gates, "decide", forgetful)
    with pytest.raises(SteeringError, match="as it decided before"):
        prove_gates(attachment, run)
