"""Gated vLLM answers as the gated transformers engine, token for token and score for score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer.errors import SteeringError
from tests.vllm.conftest import ALPHAS, CLOSE, FREE_GATED, TIMES, K, Request, engine, scores_of
from tests.vllm.test_engine import FREE, Answers, ask_all, sampling


def test_chunks_preemption_and_prefix_caching(
    embedded: sarsteer.AudioLanguageModel,
    gated: sarsteer.Steering,
    gated_file: Path,
    requests: list[Request],
    gated_expected: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted: list[str] = []
    preempt = Scheduler._preempt_request

    def counting(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if request.num_output_tokens:
            preempted.append(request.request_id)
        return preempt(self, request, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "_preempt_request", counting)
    with engine(
        gated_file, FREE_GATED, max_num_batched_tokens=64, max_num_seqs=16, num_gpu_blocks_override=20, block_size=32
    ) as llm:
        answers = ask_all(llm, requests, TIMES)
        assert preempted, "nothing was preempted while answering: the test proves nothing about it"
        (decided,) = llm.collective_rpc("sarsteer_decisions")
        (status,) = llm.collective_rpc("sarsteer_status")
    assert answers == gated_expected
    scores = scores_of(embedded, gated.gate, requests)
    assert len(decided) == len(requests) * len(ALPHAS)
    for request_id, (opening, score, _, _) in decided.items():
        number = int(request_id.split("-")[0]) // len(ALPHAS)
        assert score == pytest.approx(scores[number], abs=CLOSE)
        assert opening == float(gated.gate is not None and scores[number] > gated.gate.threshold)
    # requests that finish in the last step are counted in the next one, which an engine in this process never runs
    assert 0 < status["gated"]["openings"] < status["gated"]["requests"] <= len(decided)


def test_compiled_graphs_and_cached_prefixes(
    gated_file: Path, requests: list[Request], gated_expected: Answers
) -> None:
    with engine(gated_file, FREE_GATED, enforce_eager=False, block_size=32) as llm:
        assert ask_all(llm, requests, TIMES) == gated_expected
        assert ask_all(llm, requests, TIMES) == gated_expected
        (output,) = llm.generate([requests[0].prompt], sampling(sarsteer_alpha=TIMES * ALPHAS[-1]), use_tqdm=False)
        assert output.num_cached_tokens >= 32
        assert list(output.outputs[0].token_ids) == gated_expected[ALPHAS[-1]][0]


def test_an_engine_that_becomes_idle_counts_its_requests(gated_file: Path, requests: list[Request]) -> None:
    """In a separate process, as in production: its last step has no tokens."""
    count = 6
    with engine(gated_file, {**FREE_GATED, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}) as llm:
        for request in requests[:count]:
            llm.generate([request.prompt], sampling(4), use_tqdm=False)
        for _ in range(100):
            (status,) = llm.collective_rpc("sarsteer_status")
            if status["gated"]["requests"] == count:
                break
            time.sleep(0.1)
        (decided,) = llm.collective_rpc("sarsteer_decisions")
        llm.llm_engine.engine_core.shutdown()
    assert status["gated"]["requests"] == len(decided) == count
    assert status["gated"]["openings"] == sum(opening for opening, *_ in decided.values())


def test_gated_and_always_on_in_one_server(
    gated: sarsteer.Steering,
    requests: list[Request],
    expected: Answers,
    gated_expected: Answers,
    tmp_path: Path,
) -> None:
    alpha = ALPHAS[-1]
    always = gated.with_defaults(alpha=alpha, k=K, gate=False).save(tmp_path / "always.safetensors")
    own = gated.with_defaults(alpha=TIMES * alpha, k=K).save(tmp_path / "gated.safetensors")
    prompts = [request.prompt for request in requests]
    with engine(f"gated={own},always={always}") as llm:
        params = [sampling(sarsteer_set=name) for name in ("gated", "always") for _ in prompts]
        outputs = llm.generate([*prompts, *prompts], params, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == [*gated_expected[alpha], *expected[alpha]]


def test_the_operator_can_turn_the_gate_off(gated_file: Path, requests: list[Request], expected: Answers) -> None:
    with engine(gated_file, {**FREE, "SARSTEER_GATE": "off"}) as llm:
        assert ask_all(llm, requests[:8]) == {alpha: expected[alpha][:8] for alpha in ALPHAS}


def test_shadow_mode_decides_and_answers_as_without_steering(
    embedded: sarsteer.AudioLanguageModel,
    gated: sarsteer.Steering,
    gated_file: Path,
    requests: list[Request],
    expected: Answers,
    tmp_path: Path,
) -> None:
    from sarsteer.steering.gate.log import read_scores
    from sarsteer.vllm.frontend.route import describe

    prompts = [request.prompt for request in requests]
    log = tmp_path / "decisions.jsonl"
    with engine(gated_file, {**FREE_GATED, "SARSTEER_GATE": "shadow", "SARSTEER_DECISIONS": str(log)}) as llm:
        outputs = llm.generate(prompts, sampling(sarsteer_alpha=TIMES * ALPHAS[-1]), use_tqdm=False)
        (decided,) = llm.collective_rpc("sarsteer_decisions")
        status = describe(llm.llm_engine.vllm_config, [llm.collective_rpc("sarsteer_status")])
    assert [list(output.outputs[0].token_ids) for output in outputs] == expected[0.0]
    scores = scores_of(embedded, gated.gate, requests)
    assert gated.gate is not None
    for request_id, (opening, score, _, _) in decided.items():
        assert score == pytest.approx(scores[int(request_id.split("-")[0])], abs=CLOSE)
        assert opening == float(score > gated.gate.threshold), "what it would have done"
    assert status["defended"] is False
    assert status["sets"][0]["shadow"] is True
    # requests that finish in the last step are logged in the next one, which an engine in this process never runs
    logged = [row.score for row in read_scores(log)]
    assert 0 < len(logged) <= len(decided)
    assert set(logged) <= {score for _, score, _, _ in decided.values()}


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_gate_that_does_not_decide_stops_the_server(
    mode: str, gated_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sarsteer.vllm.worker.gates import WorkerGates

    def always_open(self: WorkerGates, h: torch.Tensor, scorers: Any) -> None:
        self.gated[: h.shape[0]].copy_(self.strengths[: h.shape[0]])

    monkeypatch.setattr(WorkerGates, "decide", always_open)
    with (
        pytest.raises(SteeringError, match="does not score layer"),
        engine(gated_file, enforce_eager=mode == "eager"),
    ):
        pass
