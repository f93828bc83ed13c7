"""Steered vLLM answers as the steered transformers engine, token for token, and refuses what would not be exact."""

from __future__ import annotations

import base64
import importlib.util
import itertools
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from sarsteer.errors import ArtifactError, SteeringError
from tests.vllm.conftest import ALPHAS, INSTRUCTION, TOKENS, K, Request, engine

FREE = {"SARSTEER_K": str(K), "SARSTEER_ALLOW_OVERRIDE": "0:1"}
Answers = dict[float, list[list[int]]]


def sampling(tokens: int = TOKENS, **extra: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=tokens, extra_args=extra or None)


def ask_all(llm: Any, requests: list[Request], times: float = 1.0) -> Answers:
    """Every clip at every alpha, multiplied by ``times``, all at once and mixed."""
    order = [(i, alpha) for i in range(len(requests)) for alpha in ALPHAS]
    outputs = llm.generate(
        [requests[i].prompt for i, _ in order],
        [sampling(sarsteer_alpha=times * alpha) for _, alpha in order],
        use_tqdm=False,
    )
    answers: Answers = {alpha: [] for alpha in ALPHAS}
    for (_, alpha), output in zip(order, outputs, strict=True):
        answers[alpha].append(list(output.outputs[0].token_ids))
    return answers


def test_answers_differ_between_strengths(expected: Answers) -> None:
    """Otherwise the tests below could not fail."""
    for a, b in itertools.pairwise(ALPHAS):
        assert expected[a] != expected[b]


def test_a_hundred_mixed_requests_in_chunks_with_preemption_and_prefix_caching(
    steering_file: Path, requests: list[Request], expected: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted: list[str] = []
    chunked: list[int] = []
    preempt, schedule = Scheduler._preempt_request, Scheduler.schedule

    def counting(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        preempted.append(request.request_id)
        return preempt(self, request, *args, **kwargs)

    def watching(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = schedule(self, *args, **kwargs)
        chunked.extend(n for r, n in out.num_scheduled_tokens.items() if 1 < n < self.requests[r].num_prompt_tokens)
        return out

    monkeypatch.setattr(Scheduler, "_preempt_request", counting)
    monkeypatch.setattr(Scheduler, "schedule", watching)
    # 20 blocks of 32 tokens suffice for about five requests of four blocks; 16 may run, so some are preempted
    with engine(
        steering_file, FREE, max_num_batched_tokens=64, max_num_seqs=16, num_gpu_blocks_override=20, block_size=32
    ) as llm:
        answers = ask_all(llm, requests)
    assert preempted, "nothing was preempted: the test proves nothing about preemption"
    assert chunked, "no prompt was cut: the test proves nothing about chunks"
    assert answers == expected


def test_answers_from_the_prefix_cache_are_the_same(
    steering_file: Path, requests: list[Request], expected: Answers
) -> None:
    with engine(steering_file, FREE, block_size=32) as llm:
        assert ask_all(llm, requests) == expected
        assert ask_all(llm, requests) == expected
        (output,) = llm.generate([requests[0].prompt], sampling(), use_tqdm=False)
        assert output.num_cached_tokens >= 32


def test_compiled_graphs_answer_the_same(steering_file: Path, requests: list[Request], expected: Answers) -> None:
    with engine(steering_file, FREE, enforce_eager=False) as llm:
        assert ask_all(llm, requests) == expected


def test_a_server_steers_by_default_and_a_client_cannot_turn_it_off(
    steering_file: Path, requests: list[Request], expected: Answers
) -> None:
    from vllm.exceptions import VLLMValidationError

    prompts = [request.prompt for request in requests[:6]]
    with engine(steering_file, {"SARSTEER_K": str(K), "SARSTEER_ALPHA": "0.2"}) as llm:
        outputs = llm.generate(prompts, sampling(), use_tqdm=False)
        assert [list(output.outputs[0].token_ids) for output in outputs] == expected[0.2][:6]
        for extra in ({"sarsteer_alpha": 0}, {"sarsteer_alpha": 0.1}, {"sarsteer": [0, 0]}, {"sarsteer_set": "x"}):
            with pytest.raises(VLLMValidationError, match="sarsteer"):
                llm.generate(prompts[:1], sampling(**extra), use_tqdm=False)
        from vllm.sampling_params import BeamSearchParams

        with pytest.raises(VLLMValidationError, match="beam search"):
            llm.beam_search(prompts[:1], BeamSearchParams(beam_width=2, max_tokens=4))


def test_a_refused_override_can_be_ignored(steering_file: Path, requests: list[Request], expected: Answers) -> None:
    settings = {"SARSTEER_K": str(K), "SARSTEER_ALPHA": "0.2", "SARSTEER_REFUSED_OVERRIDE": "ignore"}
    with engine(steering_file, settings) as llm:
        (output,) = llm.generate([requests[0].prompt], sampling(sarsteer_alpha=0), use_tqdm=False)
        assert list(output.outputs[0].token_ids) == expected[0.2][0]


def test_two_vector_sets_in_one_server(
    steering_file: Path, steering: sarsteer.Steering, requests: list[Request], expected: Answers, tmp_path: Path
) -> None:
    """The first set's default is 0.2, the second's 0.1; both answer in one batch."""
    other = steering.with_defaults(alpha=0.1, k=K).save(tmp_path / "other.safetensors")
    first = steering.with_defaults(alpha=0.2, k=K).save(tmp_path / "first.safetensors")
    with engine(f"first={first},other={other}") as llm:
        prompts = [request.prompt for request in requests[:6]]
        params = [sampling(sarsteer_set=name) for name in ("first", "other") for _ in prompts]
        outputs = llm.generate([*prompts, *prompts], params, use_tqdm=False)
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    assert answers == [*expected[0.2][:6], *expected[0.1][:6]]


@pytest.mark.parametrize("keyed", [True, False])
def test_an_unsteered_follow_up_does_not_read_a_steered_turns_blocks(
    keyed: bool, steering_file: Path, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt of a follow-up contains the steered turn, whose blocks are in the prefix cache."""
    from vllm import SamplingParams, TokensPrompt

    from sarsteer.vllm.engine import block_keys

    if not keyed:
        monkeypatch.setattr(block_keys, "block_key", lambda *_: None)

    def ask(llm: Any, ids: list[int], tokens: int, alpha: float) -> Any:
        params = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=20, extra_args={"sarsteer_alpha": alpha}
        )
        return llm.generate([TokensPrompt(prompt_token_ids=ids)], params, use_tqdm=False)[0]

    def first(output: Any) -> dict[int, float]:
        return {token: one.logprob for token, one in output.outputs[0].logprobs[0].items()}

    prompt = list(range(10, 50))
    with engine(
        steering_file, {**FREE, "SARSTEER_ALLOW_OVERRIDE": "0:2", "SARSTEER_ALLOW_REQUEST": "ignore_eos"}, block_size=32
    ) as llm:
        turn = ask(llm, prompt, 64, 2.0)
        follow_up = [*prompt, *turn.outputs[0].token_ids, 60, 61, 62, 63]
        warm = ask(llm, follow_up, 8, 0.0)
        llm.reset_prefix_cache()
        cold = ask(llm, follow_up, 8, 0.0)
    assert cold.num_cached_tokens == 0
    a, b = first(warm), first(cold)
    worst = max(abs(a[token] - b[token]) for token in set(a) & set(b))
    if keyed:
        # the first block is unsteered and shared; another order of the same float32 sums
        assert warm.num_cached_tokens == 32
        assert worst < 1e-4
    else:
        assert warm.num_cached_tokens > 32
        assert worst > 1e-2, "without keys nothing leaks: the keys are not needed, or this test proves nothing"


# ---- what does not start -------------------------------------------------------------------------------------------


def test_a_worker_that_does_not_attach_stops_the_server(steering_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sarsteer.vllm.worker.steered_worker import SteeredWorker

    def load_without_attaching(self: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    monkeypatch.setattr(SteeredWorker, "_load_model", load_without_attaching)
    with pytest.raises(SteeringError, match="nothing was attached"), engine(steering_file):
        pass
    monkeypatch.setattr(SteeredWorker, "prove", lambda self: None)
    with pytest.raises(SteeringError, match="worker 0 did not attach"), engine(steering_file):
        pass


def test_a_worker_without_the_plugin_stops_the_server(steering_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sarsteer.vllm.calibration.capture import CapturingWorker
    from sarsteer.vllm.worker import patches

    monkeypatch.setattr(patches, "settings_of", lambda _: None)
    monkeypatch.setattr(CapturingWorker, "__init__", lambda *_: None)
    with pytest.raises(NotImplementedError, match="sarsteer_status"), engine(steering_file):
        pass


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_hook_that_does_not_act_stops_the_server(
    mode: str, steering_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sarsteer.vllm.worker.attachment import Attachment

    original = Attachment.__init__

    def one_hook_less(self: Any, *args: Any) -> None:
        original(self, *args)
        self.layers[3]._forward_hooks.clear()

    monkeypatch.setattr(Attachment, "__init__", one_hook_less)
    with (
        pytest.raises(SteeringError, match="decoder layer 3 does not act"),
        engine(steering_file, enforce_eager=mode == "eager"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
        ({"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}}, "--kv-transfer-config"),
        ({"load_format": "dummy"}, "--load-format dummy"),
    ],
)
def test_options_that_break_exactness_do_not_start(steering_file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((SteeringError, ArtifactError), match=message), engine(steering_file, **options):
        pass


@pytest.mark.parametrize(
    "variable", ["VLLM_USE_RUST_FRONTEND", "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"]
)
def test_variables_that_open_a_bypass_do_not_start(steering_file: Path, variable: str) -> None:
    with pytest.raises(SteeringError, match=f"{variable}=1: .*; unset it"), engine(steering_file, {variable: "1"}):
        pass


def test_a_front_end_that_does_not_check_requests_does_not_start(
    steering_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``vllm serve --grpc`` imports this module first; its own dependencies are not installed here."""
    name = "vllm.entrypoints.launchers.grpc_server"
    assert importlib.util.find_spec(name) is not None, "vLLM renamed it: find the new name"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with pytest.raises(SteeringError, match="--grpc"), engine(steering_file):
        pass


def test_a_missing_file_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such steering file"), engine(tmp_path / "none.safetensors"):
        pass


def test_steering_of_another_model_does_not_start(steering: sarsteer.Steering, tmp_path: Path) -> None:
    """Every sampled weight differs by 2 %, several times what rounding to bfloat16 could explain."""
    found = steering.fingerprint
    decoder = replace(found.parts[0], values=base64.b64encode((1.02 * found.parts[0].array).astype("<f4")).decode())
    changed = replace(found, digest="0" * 64, parts=(decoder, *found.parts[1:]))
    other = sarsteer.Steering(
        **{name: getattr(steering, name) for name in ("refusal", "safe_basis", "singular_values", "safe_mean")},
        harmful_mean=steering.harmful_mean,
        activation_norms=steering.activation_norms,
        metadata={**steering.metadata, "fingerprint": changed.to_dict()},
    )
    file = other.save(tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="calibrated on another model"), engine(file):
        pass


def test_without_configuration_vllm_is_unchanged(requests: list[Request], expected: Answers) -> None:
    with engine(None) as llm:
        outputs = llm.generate([request.prompt for request in requests[:6]], sampling(), use_tqdm=False)
        assert not hasattr(
            llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker, "sarsteer_status"
        )
    assert [list(output.outputs[0].token_ids) for output in outputs] == expected[0.0][:6]


# ---- calibration ---------------------------------------------------------------------------------------------------


def test_calibration_in_vllm_writes_the_same_file(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Any, tmp_path: Path
) -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    from sarsteer.vllm.calibration.activation_source import VllmActivationSource

    pairs = calibration_pairs[:12]
    by_transformers = sarsteer.calibrate(embedded, pairs)
    source = VllmActivationSource("sarsteer-tiny", max_model_len=512, limit_mm_per_prompt={"audio": 1})
    try:
        by_vllm = sarsteer.calibrate(source, pairs)
    finally:
        del source._llm
        cleanup_dist_env_and_memory()
    assert by_vllm.fingerprint.digest == by_transformers.fingerprint.digest
    assert by_transformers.fingerprint.difference(by_vllm.fingerprint) is None
    # vLLM reads the decoder layers' weights from the files, so its fingerprint has no other parts
    for steering in (by_vllm, by_transformers):
        del steering.metadata["fingerprint"]
    assert by_vllm.metadata == by_transformers.metadata
    # float32 forwards of two engines differ by about 1e-6 of the activations, and r is several times shorter
    for k in (0, 4):
        ours, theirs = by_vllm.vectors(k=k), by_transformers.vectors(k=k)
        assert ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max() < 1e-4
    assert (by_vllm.safe_mean - by_transformers.safe_mean).abs().max() < 1e-4 * by_transformers.activation_norms.max()
    assert by_vllm.metadata["instruction"] == INSTRUCTION
