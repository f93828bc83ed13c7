"""vLLM's two model runners are observed, by the attributes in their source."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sarsteer.vllm.worker import runner_v1, runner_v2
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.requests import SteeredRequests
from tests.support.vllm_parts import LAYERS, WIDTH, Decoder, scheduler_output, server_settings


def new(request_id: str, **extra: Any) -> SimpleNamespace:
    return SimpleNamespace(req_id=request_id, sampling_params=SimpleNamespace(extra_args=extra))


def steered_requests() -> tuple[SteeredRequests, Attachment]:
    requests = SteeredRequests(server_settings(bounds=(0, 1)))
    attachment = Attachment(Decoder(), torch.ones(1, LAYERS, WIDTH), 16, torch.device("cpu"))
    requests.attach(attachment)
    return requests, attachment


def test_the_first_runner_is_observed() -> None:
    requests, attachment = steered_requests()
    batch = SimpleNamespace(
        num_reqs=3,
        req_ids=["b", "a", "unannounced"],
        num_computed_tokens_cpu=np.array([0, 7, 4, 99]),
        num_prompt_tokens=np.array([4, 8, 3, 99]),
    )
    runner = SimpleNamespace(input_batch=batch, _update_states=lambda _: None, _prepare_inputs=lambda *_: "prepared")
    runner_v1.observe(runner, requests)
    step = scheduler_output(new("a", sarsteer_alpha=0.5), new("b", sarsteer_alpha=0))
    runner._update_states(step)
    assert runner._prepare_inputs(step, np.array([4, 2, 1])) == "prepared"
    assert np.allclose(attachment.strengths[:8, 0].numpy(), [0, 0, 0, 0, 0.5, 0.5, 0.1, 0])
    runner._update_states(scheduler_output(finished=("b",)))
    runner._prepare_inputs(scheduler_output(), np.array([4, 2, 1]))
    assert np.allclose(attachment.strengths[:7, 0].numpy(), [0, 0, 0, 0.1, 0.5, 0.5, 0.1])


def test_the_second_runner_is_observed() -> None:
    """With the attributes in its source; also when it receives a preempted request again."""
    requests, attachment = steered_requests()
    slots = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array([8, 99, 4])))
    batch = SimpleNamespace(
        num_reqs=2,
        req_ids=["b", "a"],
        idx_mapping_np=np.array([2, 0]),
        num_computed_tokens_np=np.array([0, 7]),
        num_scheduled_tokens=np.array([4, 2]),
    )
    runner = SimpleNamespace(
        req_states=slots,
        prepare_inputs=lambda *_: batch,
        add_requests=lambda _: None,
        finish_requests=lambda _: None,
    )
    runner_v2.observe(runner, requests)
    runner.finish_requests(scheduler_output())
    runner.add_requests(scheduler_output(new("a", sarsteer_alpha=0.5), new("b", sarsteer_alpha=0.25)))
    assert runner.prepare_inputs(None) is batch
    assert np.allclose(attachment.strengths[:6, 0].numpy(), [0, 0, 0, 0.25, 0.5, 0.5])
    # preempted after 3 answered tokens, and computed again from the start: 4 prompt and 3 answered tokens
    batch.num_reqs, batch.num_computed_tokens_np, batch.num_scheduled_tokens = 1, np.array([0]), np.array([7])
    runner.add_requests(scheduler_output(new("b", sarsteer_alpha=0.25)))
    runner.prepare_inputs(None)
    assert np.allclose(attachment.strengths[:7, 0].numpy(), [0, 0, 0, 0.25, 0.25, 0.25, 0.25])
