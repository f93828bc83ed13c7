"""Two workers in separate processes: every tensor-parallel rank and every pipeline stage steers its part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sarsteer
from tests.vllm.conftest import ALPHAS, FREE_GATED, TIMES, K, Request, engine
from tests.vllm.test_engine import FREE, Answers, sampling


@pytest.mark.parametrize("kind", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_workers_answer_as_one(
    kind: str, steering_file: Path, steering: sarsteer.Steering, requests: list[Request], expected: Answers
) -> None:
    count, layers = 6, len(steering.vectors(K))
    # each worker is a new process, and loads the plugin through its entry point
    options: dict[str, Any] = {kind: 2, "distributed_executor_backend": "mp"}
    with engine(steering_file, FREE, **options) as llm:
        workers = llm.llm_engine.collective_rpc("sarsteer_status")
        outputs = llm.generate(
            [request.prompt for _ in ALPHAS for request in requests[:count]],
            [sampling(sarsteer_alpha=alpha) for alpha in ALPHAS for _ in range(count)],
            use_tqdm=False,
        )
        llm.llm_engine.engine_core.shutdown()
    layers_of = [worker["layers"] for worker in workers]
    assert [worker["rank"] for worker in workers] == [0, 1]
    if kind == "tensor_parallel_size":
        assert layers_of == [list(range(layers))] * 2
    else:
        assert layers_of == [list(range(layers // 2)), list(range(layers // 2, layers))]
    assert all(worker["proven"] and worker["confirmed"] for worker in workers)
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    assert answers == [tokens for alpha in ALPHAS for tokens in expected[alpha][:count]]


@pytest.mark.parametrize("kind", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_workers_gate_as_one(
    kind: str,
    gated_file: Path,
    gated: sarsteer.Steering,
    requests: list[Request],
    gated_expected: Answers,
) -> None:
    """The gate and the layers above it are in the second stage; every tensor-parallel rank decides by itself."""
    assert gated.gate is not None
    assert gated.gate.layer >= len(gated.refusal) // 2
    alpha = ALPHAS[-1]
    options: dict[str, Any] = {kind: 2, "distributed_executor_backend": "mp"}
    with engine(gated_file, {**FREE_GATED, "SARSTEER_ALPHA": str(TIMES * alpha)}, **options) as llm:
        outputs = llm.generate([request.prompt for request in requests], sampling(), use_tqdm=False)
        decided = llm.llm_engine.collective_rpc("sarsteer_decisions")
        llm.llm_engine.engine_core.shutdown()
    assert [list(output.outputs[0].token_ids) for output in outputs] == gated_expected[alpha]
    first, second = ({name: values[:2] for name, values in one.items()} for one in decided)
    assert len(second) == len(requests)
    assert first == (second if kind == "tensor_parallel_size" else {}), "the first stage decides nothing"
