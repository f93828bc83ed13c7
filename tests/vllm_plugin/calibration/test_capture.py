"""Workers read the last prompt token's activations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sarsteer.vllm.calibration.capture import CapturingWorker
from tests.support.vllm_parts import LAYERS, WIDTH, Decoder, scheduler_output


def test_only_the_last_prompt_token_is_read() -> None:
    decoder = Decoder()
    config = SimpleNamespace(
        model_config=SimpleNamespace(enforce_eager=True, hf_text_config=SimpleNamespace(num_hidden_layers=LAYERS))
    )
    runner = SimpleNamespace(
        load_model=lambda: None,
        get_model=lambda: decoder,
        device=torch.device("cpu"),
        input_batch=SimpleNamespace(
            num_reqs=3,
            req_ids=["a", "b", "c"],
            num_computed_tokens_cpu=np.array([0, 2, 9]),
            num_prompt_tokens=np.array([9, 4, 5]),  # a chunk; a prompt's end; decoding
        ),
        _update_states=lambda _: None,
        _prepare_inputs=lambda *_: None,
    )
    worker: Any = SimpleNamespace(model_runner=runner, vllm_config=config, use_v2_model_runner=False)
    CapturingWorker(worker)
    runner.load_model()
    hidden, residual = torch.randn(6, WIDTH), torch.randn(6, WIDTH)
    runner._prepare_inputs(scheduler_output(), np.array([3, 2, 1]))
    out = decoder(hidden, residual)
    taken = worker.sarsteer_take()
    assert set(taken) == {"b"}
    last = np.frombuffer(taken["b"][str(LAYERS - 1)], dtype=np.float32)
    assert np.array_equal(last, (out[0] + out[1])[4].detach().numpy())
    assert worker.sarsteer_take() == {}
