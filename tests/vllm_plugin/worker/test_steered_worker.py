"""One worker: it proves what a pipeline stage returns, and dummy batches decide nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sarsteer.errors import SteeringError
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.proof import ROWS
from sarsteer.vllm.worker.requests import SteeredRequests
from sarsteer.vllm.worker.steered_worker import SteeredWorker
from tests.support.vllm_parts import (
    CLOSE,
    LAYERS,
    WIDTH,
    Decoder,
    Sequence,
    forward,
    gate_at,
    gated_requests,
    random_vectors,
    server_settings,
)


def test_a_stage_of_the_second_runner_is_proven_by_the_tensors_it_returns() -> None:
    """Before the last stage its dummy step returns nothing; ``execute_model`` returns the tensors it sends."""
    decoder, start = Decoder(range(2)), torch.randn(ROWS, WIDTH)
    scheduled: list[dict[str, int]] = []

    def execute_model(output: Any) -> SimpleNamespace:
        scheduled.append(output.num_scheduled_tokens)
        hidden, residual = decoder(start, torch.zeros_like(start))
        return SimpleNamespace(tensors={"hidden_states": hidden, "residual": residual})

    def dummy_run(rows: int, **options: Any) -> tuple[None, None]:
        runner.execute_model(SimpleNamespace(num_scheduled_tokens=dict.fromkeys("abcd", 1)), dummy_run=True)
        return None, None

    class Runner(SimpleNamespace):
        def execute_model(self, scheduler_output: Any, dummy_run: bool) -> SimpleNamespace:
            return execute_model(scheduler_output)

    runner = Runner(max_num_tokens=8, _dummy_run=dummy_run)
    worker = SteeredWorker.__new__(SteeredWorker)
    worker.settings = server_settings()
    worker.runner, worker.proven, worker.requests = runner, False, SteeredRequests(worker.settings)
    worker.worker = SimpleNamespace(
        use_v2_model_runner=True,
        vllm_config=SimpleNamespace(model_config=SimpleNamespace(enforce_eager=True), speculative_config=None),
    )
    worker.worker.vllm_config.scheduler_config = SimpleNamespace(max_num_seqs=8)
    worker.worker.vllm_config.parallel_config = SimpleNamespace(tensor_parallel_size=1)
    worker.requests.attach(Attachment(decoder, torch.randn(1, LAYERS, WIDTH), 8, torch.device("cpu")))
    worker.prove()
    assert worker.proven
    assert "execute_model" not in vars(runner)
    assert all(list(tokens.values()) == [2, 2] for tokens in scheduled), "no graph of pure decoding"
    decoder.layers[1]._forward_hooks.clear()
    with pytest.raises(SteeringError, match="decoder layer 1 does not act"):
        worker.prove()


def test_a_dummy_batch_decides_no_request() -> None:
    """Data-parallel engines run one while another has work, through the same graphs and without the model runner."""
    requests, _, decoder = gated_requests(gate_at())
    assert requests.slots is not None
    worker = SteeredWorker.__new__(SteeredWorker)
    worker.requests = requests
    sequence = Sequence("a", 3, 2, 0, 0.5)
    requests.add("a", sequence.params)
    requests.step(["a"], [0], [3], [3])
    forward(decoder, sequence.tokens[:3])
    before = requests.slots.take()["a"][:2]
    worker._dummy_batch(lambda: forward(decoder, torch.randn(6, WIDTH)))
    assert requests.slots.take()["a"][:2] == before
    requests.step(["a"], [3], [2], [3])
    states = forward(decoder, sequence.tokens[3:])
    assert torch.allclose(states, sequence.expected(Decoder(), random_vectors(), gate_at())[3:], atol=CLOSE)
