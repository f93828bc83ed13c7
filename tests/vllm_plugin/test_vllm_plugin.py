"""What steering inside vLLM decides without vLLM: rows, strengths, settings, refusals, layers, checks, hooks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sarsteer
from sarsteer import tiny
from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.models import checkpoint
from sarsteer.models.fingerprint import fingerprint_of
from sarsteer.vllm import plugin, settings, strengths, versions
from sarsteer.vllm.calibration.capture import CapturingWorker
from sarsteer.vllm.engine.block_keys import block_key
from sarsteer.vllm.engine.handshake import check_workers
from sarsteer.vllm.frontend.admission import admit
from sarsteer.vllm.frontend.server import server_environment
from sarsteer.vllm.worker import rows, runner_v1, runner_v2
from sarsteer.vllm.worker.attachment import Attachment
from sarsteer.vllm.worker.layers import local_layers
from sarsteer.vllm.worker.proof import ROWS, prove
from sarsteer.vllm.worker.requests import SteeredRequests
from sarsteer.vllm.worker.steered_worker import SteeredWorker
from sarsteer.vllm.worker.weights import check_weights
from tests.support.vllm_parts import LAYERS, WIDTH, Decoder, Speech, configured, one_set, row_by_row

# ---- rows ----------------------------------------------------------------------------------------------------------

REQUESTS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=8)


@given(REQUESTS)
def test_a_row_is_steered_from_the_last_prompt_token_on(batch: list[tuple[int, int, int]]) -> None:
    computed, scheduled, prompts = (np.array(column) for column in zip(*batch, strict=True))
    by_hand = [c + i >= p - 1 for c, n, p in batch for i in range(n)]
    assert (rows.past_prompt(computed, scheduled, prompts) >= 0).tolist() == by_hand


@given(st.integers(1, 40), st.integers(0, 20), st.lists(st.integers(1, 7), min_size=1, max_size=30))
def test_chunks_change_nothing(prompt: int, answered: int, chunks: list[int]) -> None:
    """However a sequence is cut into steps, the same positions are steered."""
    total, done, steered = prompt + answered, 0, []
    for chunk in [*chunks, total]:
        chunk = min(chunk, total - done)
        if chunk:
            steered += (rows.past_prompt([done], [chunk], [prompt]) >= 0).tolist()
            done += chunk
    assert steered == [position >= prompt - 1 for position in range(total)]


def test_rows_carry_their_requests_strength_and_set() -> None:
    found = rows.rows_of([0.1, 0.0, 0.3], [0, 1, 2], [0, 5, 2], [3, 1, 2], [3, 5, 9], [7, 8, 9], [7, 8, 9])
    assert np.allclose(found.strengths, [0, 0, 0.1, 0, 0, 0])
    assert found.sets.tolist() == [0, 0, 0, 1, 2, 2]
    assert found.slots.tolist() == [7, 7, 7, 8, 9, 9]
    assert found.decided.tolist() == [rows.NOWHERE, rows.NOWHERE, 7, rows.NOWHERE, rows.NOWHERE, rows.NOWHERE]


# ---- strengths -----------------------------------------------------------------------------------------------------


def test_by_default_a_request_cannot_choose() -> None:
    one = configured()
    assert strengths.strength_of(None, one) == strengths.RequestStrength(0, 0.1)
    assert strengths.strength_of({"unrelated": 1, "sarsteer_alpha": 0.1}, one) == strengths.RequestStrength(0, 0.1)
    for alpha in (0, 0.0, 0.05, 0.2, -1):
        with pytest.raises(strengths.OverrideError, match="does not let requests choose"):
            strengths.strength_of({"sarsteer_alpha": alpha}, one)


def test_within_bounds_it_can() -> None:
    one = configured(bounds=(0.05, 0.2))
    for alpha in (0.05, 0.1, 0.2):
        assert strengths.strength_of({"sarsteer_alpha": alpha}, one).alpha == alpha
    for alpha in (0.0, 0.04999, 0.21):
        with pytest.raises(strengths.OverrideError, match="outside what this server allows"):
            strengths.strength_of({"sarsteer_alpha": alpha}, one)


def test_a_refused_override_may_be_ignored_instead() -> None:
    one = configured(ignore_refused=True)
    assert strengths.strength_of({"sarsteer_alpha": 0}, one).alpha == 0.1


@pytest.mark.parametrize("value", ["0", None, True, float("nan"), float("inf"), [0.1], {}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(strengths.OverrideError, match="finite number"):
        strengths.strength_of({"sarsteer_alpha": value}, configured(bounds=(0, 1), ignore_refused=True))


@pytest.mark.parametrize("key", ["sarsteer", "sarsteer_aplha", "sarsteer_k", "sarsteer_strength"])
def test_an_unknown_key_of_ours_is_refused(key: str) -> None:
    with pytest.raises(strengths.OverrideError, match=f"unknown {key}"):
        strengths.strength_of({key: 0}, configured(bounds=(0, 1)))


def test_sets_are_chosen_by_name() -> None:
    two = configured(one_set("a", 0.1), one_set("b", 0.3))
    assert strengths.strength_of({"sarsteer_set": "b"}, two) == strengths.RequestStrength(1, 0.3)
    with pytest.raises(strengths.OverrideError, match="there is no sarsteer_set 'c'; this server has a, b"):
        strengths.strength_of({"sarsteer_set": "c"}, two)


@given(st.dictionaries(st.sampled_from(["sarsteer_alpha", "sarsteer_set", "sarsteer", "x"]), st.none() | st.floats()))
def test_a_worker_never_falls_below_what_was_allowed(extra: dict[str, Any]) -> None:
    """Whatever came past the front end, a worker steers within the operator's bounds or at the operator's strength."""
    for bounds in (None, (0.05, 0.2)):
        alpha = strengths.applied_strength(extra, configured(bounds=bounds)).alpha
        assert alpha == 0.1 or (bounds is not None and bounds[0] <= alpha <= bounds[1])


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(steering: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("steering") / "a.safetensors")


def test_nothing_is_configured_by_nothing() -> None:
    assert settings.from_environment({}) is None
    assert settings.from_environment({"SARSTEER_STEERING": " "}) is None
    assert settings.settings_of(SimpleNamespace(additional_config={})) is None


def test_settings_survive_the_way_to_the_workers(file: Path) -> None:
    env = {
        "SARSTEER_STEERING": f"a={file},b={file}",
        "SARSTEER_ALPHA": "0.2",
        "SARSTEER_K": "3",
        "SARSTEER_LAMBDA": "0.5",
        "SARSTEER_ALLOW_OVERRIDE": "0.1:0.3",
        "SARSTEER_REFUSED_OVERRIDE": "ignore",
    }
    made = settings.from_environment(env)
    assert made is not None
    sent = json.loads(json.dumps({settings.KEY: made.to_config()}))
    assert settings.settings_of(SimpleNamespace(additional_config=sent)) == made
    assert [(one.name, one.alpha, one.k, one.lambda_) for one in made.sets] == [("a", 0.2, 3, 0.5), ("b", 0.2, 3, 0.5)]
    assert made.bounds == (0.1, 0.3)
    assert made.ignore_refused


def test_strengths_are_the_files_own_by_default(file: Path, steering: sarsteer.Steering) -> None:
    made = settings.from_environment({"SARSTEER_STEERING": str(file)})
    assert made is not None
    assert (made.sets[0].alpha, made.sets[0].k, made.sets[0].lambda_) == steering.defaults
    other = settings.from_environment({"SARSTEER_STEERING": str(file), "SARSTEER_K": "1"})
    assert other is not None
    assert other.digest != made.digest, "another ablation has other vectors"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"SARSTEER_STEERING": "/nowhere/x.safetensors"}, "no such steering file"),
        ({"SARSTEER_STEERING": "a={file},a={file}"}, "two files have the same name"),
        ({"SARSTEER_STEERING": "a=,b={file}"}, "write FILE"),
        ({"SARSTEER_ALPHA": "strong"}, "SARSTEER_ALPHA=strong: must be a finite number"),
        ({"SARSTEER_ALPHA": "inf"}, "finite"),
        ({"SARSTEER_K": "1.5"}, "whole number"),
        ({"SARSTEER_K": "9999"}, "beyond the rank"),
        ({"SARSTEER_ALLOW_OVERRIDE": "0.1"}, "lowest and highest"),
        ({"SARSTEER_ALLOW_OVERRIDE": "0.3:0.1"}, "lowest and highest"),
        ({"SARSTEER_REFUSED_OVERRIDE": "maybe"}, "must be reject or ignore"),
        ({"SARSTEER_ALLOW_OTHER_MODEL": "yes"}, "must be 0 or 1"),
        ({"SARSTEER_GATE": "yes"}, "SARSTEER_GATE=yes: must be off or on"),
    ],
)
def test_a_bad_setting_is_named(file: Path, change: dict[str, str], told: str) -> None:
    env = {"SARSTEER_STEERING": str(file), **{key: value.format(file=file) for key, value in change.items()}}
    with pytest.raises((SteeringError, ArtifactError), match=told):
        settings.from_environment(env)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"no safetensors")
    with pytest.raises(ArtifactError, match="is no safetensors file"):
        settings.from_environment({"SARSTEER_STEERING": str(path)})


def test_the_server_loads_the_plugin_whatever_the_list_of_plugins_says() -> None:
    chosen = {"SARSTEER_STEERING": "x", "SARSTEER_K": None}
    assert server_environment({"SARSTEER_K": "3"}, chosen) == {"SARSTEER_STEERING": "x", "SARSTEER_K": "3"}
    for before, after in (("", "sarsteer"), ("a", "a,sarsteer"), ("sarsteer,a", "sarsteer,a")):
        assert server_environment({"VLLM_PLUGINS": before}, chosen)["VLLM_PLUGINS"] == after


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    versions.check_version("0.32.0")
    versions.check_version("0.32.4+cpu")
    for version in ("0.31.9", "0.33.0", "0.320.0", "1.0"):
        with pytest.raises(SteeringError, match=f"vLLM {version} was not tested"):
            versions.check_version(version)
    monkeypatch.setenv(versions.FORCE, "1")
    versions.check_version("0.33.0")


def test_registered_without_configuration_it_says_so_at_debug_level(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SARSTEER_STEERING", raising=False)
    monkeypatch.setattr(plugin, "is_tested", lambda: False)
    with caplog.at_level("DEBUG"):
        plugin.register()
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


# ---- what is refused beside steering -------------------------------------------------------------------------------


def vllm_config(**changes: Any) -> SimpleNamespace:
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(
            use_ubatching=False, prefill_context_parallel_size=1, decode_context_parallel_size=1
        ),
        model_config=SimpleNamespace(runner_type="generate", is_encoder_decoder=False, enable_sleep_mode=False),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=False)),
        speculative_config=None,
        kv_transfer_config=None,
    )
    for path, value in changes.items():
        part, _, name = path.partition("__")
        setattr(getattr(config, part), name, value) if name else setattr(config, part, value)
    return config


def test_plain_serving_is_admitted() -> None:
    admit(vllm_config())
    admit(vllm_config(speculative_config=SimpleNamespace(method="ngram")))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"parallel_config__use_ubatching": True}, "--enable-dbo"),
        ({"parallel_config__prefill_context_parallel_size": 2}, "--prefill-context-parallel-size"),
        ({"parallel_config__decode_context_parallel_size": 2}, "--decode-context-parallel-size"),
        ({"cache_config__kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
        ({"kv_transfer_config": object()}, "--kv-transfer-config"),
        ({"model_config__enable_sleep_mode": True}, "--enable-sleep-mode"),
        ({"model_config__runner_type": "pooling"}, "--runner pooling"),
        ({"model_config__is_encoder_decoder": True}, "encoder-decoder"),
        ({"compilation_config__pass_config": SimpleNamespace(enable_sp=True)}, "sequence parallelism"),
        ({"speculative_config": SimpleNamespace(method="eagle3")}, "speculative decoding by eagle3"),
    ],
)
def test_what_would_not_be_exact_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SteeringError, match=named):
        admit(vllm_config(**change))


# ---- layers and hooks ----------------------------------------------------------------------------------------------


def test_layers_are_the_language_models() -> None:
    model = Speech()
    assert list(local_layers(model, LAYERS).values()) == list(model.language_model.layers)
    with pytest.raises(SteeringError, match="no lists of 5 layers"):
        local_layers(model, 5)


def test_a_pipeline_stage_steers_its_own_layers_with_their_own_vectors() -> None:
    vectors = torch.randn(1, LAYERS, WIDTH)
    start = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    chosen = row_by_row([0.5, 0.0, 1.0])
    whole = Decoder()
    Attachment(whole, vectors, 8, torch.device("cpu")).fill(chosen)
    expected = whole(*start)
    found = start
    for stage in (range(1), range(1, LAYERS)):
        part = Decoder(stage)
        attachment = Attachment(part, vectors, 8, torch.device("cpu"))
        assert list(attachment.layers) == list(stage)
        attachment.fill(chosen)
        found = part(*found)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_rows_get_their_vector_in_float32_and_the_rest_not_a_bit(dtype: torch.dtype, sets: int, compiled: bool) -> None:
    decoder = Decoder().to(dtype)
    vectors = torch.randn(sets, LAYERS, WIDTH)
    stream = torch.randn(5, WIDTH).to(dtype), torch.randn(5, WIDTH).to(dtype)
    attachment = Attachment(decoder, vectors, 6, torch.device("cpu"))
    run = torch.compile(decoder.layers[1], backend="aot_eager") if compiled else decoder.layers[1]
    plain = run(*stream)
    strength = np.array([0.1, 0, 0.7, 0, 1.0], dtype=np.float32)
    chosen = np.array([0, 1, 2, 2, 1], dtype=np.int64) % sets
    attachment.fill(row_by_row(strength, chosen))
    hidden, residual = run(*stream)
    added = torch.from_numpy(strength)[:, None] * vectors[torch.from_numpy(chosen), 1]
    assert torch.equal(hidden, plain[0])
    assert torch.equal(residual, (plain[1].float() + added).to(dtype))
    attachment.clear()
    assert torch.equal(run(*stream)[1], plain[1])


def test_a_layer_of_one_output_is_steered_too_and_another_kind_refused() -> None:
    class Plain(nn.Module):
        def __init__(self, output: Any) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity()])
            self.output = output

    model = Plain(None)
    attachment = Attachment(model, torch.ones(1, 1, WIDTH), 4, torch.device("cpu"))
    attachment.fill(row_by_row([0, 1]))
    assert model.layers[0](torch.zeros(2, WIDTH))[:, 0].tolist() == [0, 1]
    with pytest.raises(SteeringError, match="cannot be steered"):
        model.layers[0]((torch.zeros(2, WIDTH), None))


def test_too_many_rows_are_an_error() -> None:
    attachment = Attachment(Decoder(), torch.ones(1, LAYERS, WIDTH), 4, torch.device("cpu"))
    with pytest.raises(SteeringError, match="at most 4"):
        attachment.fill(row_by_row([1] * 5))


# ---- the proof -----------------------------------------------------------------------------------------------------


def states(decoder: Decoder, start: torch.Tensor) -> Any:
    return lambda: torch.add(*decoder(start, torch.zeros_like(start)))


def test_the_proof_passes_and_leaves_the_vectors_as_they_were() -> None:
    decoder, vectors = Decoder(), torch.randn(2, LAYERS, WIDTH)
    attachment = Attachment(decoder, vectors, 8, torch.device("cpu"))
    prove(attachment, states(decoder, torch.randn(ROWS, WIDTH)))
    assert attachment.intact
    assert not attachment.strengths.any()
    attachment.write_vectors(0, torch.zeros(2, WIDTH))
    assert not attachment.intact


@pytest.mark.parametrize("number", range(LAYERS))
def test_the_proof_misses_no_layer(number: int) -> None:
    decoder = Decoder()
    attachment = Attachment(decoder, torch.randn(1, LAYERS, WIDTH), 8, torch.device("cpu"))
    decoder.layers[number]._forward_hooks.clear()  # as a graph would that was compiled without it
    with pytest.raises(SteeringError, match=f"the hook on decoder layer {number} does not act"):
        prove(attachment, states(decoder, torch.randn(ROWS, WIDTH)))


def test_the_proof_sees_rows_that_leak() -> None:
    decoder = Decoder()
    attachment = Attachment(decoder, torch.randn(1, LAYERS, WIDTH), 8, torch.device("cpu"))
    run = states(decoder, torch.randn(ROWS, WIDTH))
    with pytest.raises(SteeringError, match="changed other rows"):
        prove(attachment, lambda: run().roll(1, 0) + run())


def test_a_stage_of_the_second_runner_is_proven_by_what_it_hands_on() -> None:
    """Its dummy step returns nothing before the last stage; what it sends is what ``execute_model`` returns."""
    decoder, start = Decoder(range(2)), torch.randn(ROWS, WIDTH)
    asked: list[dict[str, int]] = []

    def execute_model(output: Any) -> SimpleNamespace:
        asked.append(output.num_scheduled_tokens)
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
    worker.runner, worker.proven, worker.requests = runner, False, SteeredRequests(configured())
    worker.worker = SimpleNamespace(
        use_v2_model_runner=True,
        vllm_config=SimpleNamespace(model_config=SimpleNamespace(enforce_eager=True), speculative_config=None),
    )
    worker.worker.vllm_config.scheduler_config = SimpleNamespace(max_num_seqs=8)
    worker.requests.attach(Attachment(decoder, torch.randn(1, LAYERS, WIDTH), 8, torch.device("cpu")))
    worker.prove()
    assert worker.proven
    assert "execute_model" not in vars(runner)
    assert all(list(tokens.values()) == [2, 2] for tokens in asked), "no graph of pure decoding"
    decoder.layers[1]._forward_hooks.clear()
    with pytest.raises(SteeringError, match="decoder layer 1 does not act"):
        worker.prove()


# ---- workers and engine core ---------------------------------------------------------------------------------------


def status(rank: int, layers: range, **changes: Any) -> dict[str, Any]:
    return {"rank": rank, "digest": configured().digest, "layers": list(layers), "proven": True, **changes}


def test_every_layer_must_be_steered_by_someone() -> None:
    check_workers([status(0, range(2)), status(1, range(2, 4))], configured())
    with pytest.raises(SteeringError, match=r"no worker steers decoder layers \[2, 3\]"):
        check_workers([status(0, range(2)), status(1, range(2))], configured())
    with pytest.raises(SteeringError, match="no worker"):
        check_workers([], configured())


@pytest.mark.parametrize("change", [{"digest": None}, {"digest": "another"}, {"proven": False}])
def test_a_worker_that_did_not_attach_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(SteeringError, match="worker 1 did not"):
        check_workers([status(0, range(4)), status(1, range(4), **change)], configured())


def request(length: int, **extra: Any) -> SimpleNamespace:
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra), num_prompt_tokens=length)


def test_block_keys_part_what_is_steered_otherwise() -> None:
    free = configured(one_set("a", 0.1), one_set("b", 0.1), bounds=(0, 1))
    keys = [
        block_key(request(5), free),
        block_key(request(6), free),
        block_key(request(5, sarsteer_alpha=0.2), free),
        block_key(request(5, sarsteer_set="b"), free),
    ]
    assert len(set(keys)) == 4
    assert block_key(request(5, sarsteer_alpha=0), free) is None
    assert block_key(request(5, sarsteer_alpha=0.1), free) == keys[0]


# ---- the two model runners -----------------------------------------------------------------------------------------


def new(request_id: str, **extra: Any) -> SimpleNamespace:
    return SimpleNamespace(req_id=request_id, sampling_params=SimpleNamespace(extra_args=extra))


def scheduled(*requests: SimpleNamespace, finished: tuple[str, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(scheduled_new_reqs=requests, finished_req_ids=set(finished))


def steered_requests() -> tuple[SteeredRequests, Attachment]:
    requests = SteeredRequests(configured(bounds=(0, 1)))
    attachment = Attachment(Decoder(), torch.ones(1, LAYERS, WIDTH), 16, torch.device("cpu"))
    requests.attach(attachment)
    return requests, attachment


def test_the_first_runner_is_followed() -> None:
    requests, attachment = steered_requests()
    batch = SimpleNamespace(
        num_reqs=3,
        req_ids=["b", "a", "unannounced"],
        num_computed_tokens_cpu=np.array([0, 7, 4, 99]),
        num_prompt_tokens=np.array([4, 8, 3, 99]),
    )
    runner = SimpleNamespace(input_batch=batch, _update_states=lambda _: None, _prepare_inputs=lambda *_: "prepared")
    runner_v1.observe(runner, requests)
    step = scheduled(new("a", sarsteer_alpha=0.5), new("b", sarsteer_alpha=0))
    runner._update_states(step)
    assert runner._prepare_inputs(step, np.array([4, 2, 1])) == "prepared"
    assert np.allclose(attachment.strengths[:8, 0].numpy(), [0, 0, 0, 0, 0.5, 0.5, 0.1, 0])
    runner._update_states(scheduled(finished=("b",)))
    runner._prepare_inputs(scheduled(), np.array([4, 2, 1]))
    assert np.allclose(attachment.strengths[:7, 0].numpy(), [0, 0, 0, 0.1, 0.5, 0.5, 0.1])


def test_the_second_runner_is_followed() -> None:
    """With the attributes that its source names; also when it is given a preempted request anew."""
    requests, attachment = steered_requests()
    slots = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array([8, 99, 4])))
    made = SimpleNamespace(
        num_reqs=2,
        req_ids=["b", "a"],
        idx_mapping_np=np.array([2, 0]),
        num_computed_tokens_np=np.array([0, 7]),
        num_scheduled_tokens=np.array([4, 2]),
    )
    runner = SimpleNamespace(
        req_states=slots,
        prepare_inputs=lambda *_: made,
        add_requests=lambda _: None,
        finish_requests=lambda _: None,
    )
    runner_v2.observe(runner, requests)
    runner.finish_requests(scheduled())
    runner.add_requests(scheduled(new("a", sarsteer_alpha=0.5), new("b", sarsteer_alpha=0.25)))
    assert runner.prepare_inputs(None) is made
    assert np.allclose(attachment.strengths[:6, 0].numpy(), [0, 0, 0, 0.25, 0.5, 0.5])
    # preempted after 3 answered tokens, and computed from the start: 4 prompt tokens and 3 answered ones
    made.num_reqs, made.num_computed_tokens_np, made.num_scheduled_tokens = 1, np.array([0]), np.array([7])
    runner.add_requests(scheduled(new("b", sarsteer_alpha=0.25)))
    runner.prepare_inputs(None)
    assert np.allclose(attachment.strengths[:7, 0].numpy(), [0, 0, 0, 0.25, 0.25, 0.25, 0.25])


def test_capture_reads_the_last_prompt_token_and_no_other() -> None:
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
    runner._prepare_inputs(scheduled(), np.array([3, 2, 1]))
    out = decoder(hidden, residual)
    taken = worker.sarsteer_take()
    assert set(taken) == {"b"}
    last = np.frombuffer(taken["b"][str(LAYERS - 1)], dtype=np.float32)
    assert np.array_equal(last, (out[0] + out[1])[4].detach().numpy())
    assert worker.sarsteer_take() == {}


# ---- weights -------------------------------------------------------------------------------------------------------


def served(folder: Path, **changes: Any) -> SimpleNamespace:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model = SimpleNamespace(
        model=str(folder), revision=None, quantization=None, hf_config=config, hf_text_config=config.text_config
    )
    load = SimpleNamespace(load_format="auto", download_dir=None)
    for name, value in changes.items():
        setattr(load if hasattr(load, name) else model, name, value)
    return SimpleNamespace(model_config=model, load_config=load)


def test_a_checkpoints_fingerprint_is_the_loaded_models(embedded: sarsteer.AudioLanguageModel) -> None:
    config = served(tiny.model_folder()).model_config.hf_config
    found = checkpoint.checkpoint_fingerprint(tiny.model_folder(), config)
    assert found.digest == fingerprint_of(embedded.module, embedded.decoder_layers).digest
    assert embedded.fingerprint.difference(found) is None


def test_the_calibrated_weights_are_admitted(steering: sarsteer.Steering) -> None:
    checked = check_weights(served(tiny.model_folder()), steering)
    assert "a sample of every decoder weight on disk" in checked


def test_other_weights_are_refused(steering: sarsteer.Steering, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in tiny.model_folder().iterdir():
        (tmp_path / path.name).symlink_to(path)
    tensors = load_file(tiny.model_folder() / "model.safetensors")
    name = "language_model.model.layers.5.self_attn.q_proj.weight"
    tensors[name] = tensors[name] + 1e-2  # fine-tuned a little
    (tmp_path / "model.safetensors").unlink()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="another model than this one"):
        check_weights(served(tmp_path), steering)
    assert check_weights(served(tmp_path), steering, allow_other_model=True) == ["layers", "width"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quantization": "fp8"}, "quantized"),
        ({"load_format": "dummy"}, "--load-format dummy"),
        ({"model": "nobody/nothing"}, "not on this machine"),
    ],
)
def test_weights_that_cannot_be_checked_are_refused(
    steering: sarsteer.Steering, change: dict[str, str], told: str
) -> None:
    with pytest.raises(ArtifactError, match=told):
        check_weights(served(tiny.model_folder(), **change), steering)


def test_a_model_of_another_shape_is_refused_even_where_others_are_allowed(steering: sarsteer.Steering) -> None:
    config = served(tiny.model_folder())
    config.model_config.hf_text_config = SimpleNamespace(num_hidden_layers=28, hidden_size=3584)
    with pytest.raises(ArtifactError, match="8 layers of width 256, the model 28 of 3584"):
        check_weights(config, steering, allow_other_model=True)
