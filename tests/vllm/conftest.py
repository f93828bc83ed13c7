"""Engines in this process, on a CPU, in float32: vLLM and transformers on the same model, clips and vectors."""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    OMP_NUM_THREADS="1",
    VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
)

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import sarsteer
from sarsteer import tiny
from sarsteer.audio import load_clip
from sarsteer.steering.gate.gate import Gate

torch.set_num_threads(1)  # the model is tiny: more threads would only wait for each other

INSTRUCTION = "Please generate detailed steps for the question in the audio."
TOKENS = 24
K = 5
ALPHAS = (0.0, 0.05, 0.1, 0.2)
CLIPS = 25
TIMES = 5.0  # only the layers above a gate are steered, so gated tests use 5 times as much
FREE_GATED = {"SARSTEER_K": str(K), "SARSTEER_ALLOW_OVERRIDE": "0:2"}
# float32 forwards of two engines differ by about 1e-6 of the activations; a score is a sum of 256 products of them
CLOSE = 1e-3


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables inside a ``with`` block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def engine(steering: str | Path | None, settings: dict[str, str] | None = None, **options: Any) -> Iterator[Any]:
    """A ``vllm.LLM`` of the embedded model in this process, which is cleaned up afterwards."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    variables = {"SARSTEER_STEERING": str(steering)} if steering is not None else {}
    options = {
        "model": str(tiny.model_folder()),
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 32,
        "limit_mm_per_prompt": {"audio": 1},
        "enforce_eager": True,
        **options,
    }
    try:
        with environment(**variables, **(settings or {})):
            llm = LLM(**options)
        yield llm
        del llm
    finally:
        cleanup_dist_env_and_memory()


class Request:
    """A clip as a prompt for each engine."""

    def __init__(self, model: sarsteer.AudioLanguageModel, path: Path) -> None:
        turn = sarsteer.user_turn(path, INSTRUCTION)
        clip = load_clip(path)
        self.prepared = model.prepare([turn])[0]
        text = model.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        self.prompt = {"prompt": text, "multi_modal_data": {"audio": (clip.samples, clip.rate)}}


@pytest.fixture(scope="session")
def steering_file(steering: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("steering") / "steering.safetensors")


@pytest.fixture(scope="session")
def requests(embedded: sarsteer.AudioLanguageModel, test_pairs: Any) -> list[Request]:
    items = [*test_pairs.harmful[: CLIPS // 2 + 1], *test_pairs.safe[: CLIPS // 2]]
    return [Request(embedded, item.audio) for item in items]


def transformers_tokens(
    model: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, requests: list[Request], alpha: float, tokens: int
) -> list[list[int]]:
    """The transformers engine's answers: tokens up to and including the end of each."""
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with steering.on(model, alpha=alpha, k=K):
        rows = model.generate_tokens(
            model.collate([request.prepared for request in requests]),
            **model.generation_options({"max_new_tokens": tokens}),
        ).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@pytest.fixture(scope="session")
def expected(
    embedded: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, requests: list[Request]
) -> dict[float, list[list[int]]]:
    """The transformers engine's answers by alpha."""
    return {alpha: transformers_tokens(embedded, steering, requests, alpha, TOKENS) for alpha in ALPHAS}


def scores_of(model: sarsteer.AudioLanguageModel, gate: Any, requests: list[Request]) -> list[float]:
    states = model.last_token_activations([request.prepared for request in requests])
    scores: list[float] = gate.score(states).tolist()
    return scores


@pytest.fixture(scope="session")
def gated(embedded: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, requests: list[Request]) -> Any:
    """With a gate that reads the middle layer, with which the second of two pipeline stages begins, and the next one.

    Its threshold is in the widest gap of these requests' scores, so that it opens for some of them. The first clips are
    harmful.
    """
    middle_layer, harmful = len(steering.refusal) // 2, len(requests) // 2
    states = embedded.last_token_activations([request.prepared for request in requests])
    first, last = (
        difference / difference.square().sum() / 2
        for difference in (states[:harmful].mean(0) - states[harmful:].mean(0))[middle_layer : middle_layer + 2]
    )
    gate = Gate(middle_layer + 1, last, 0.0, 0.0, earlier={middle_layer: first})
    scores = sorted(scores_of(embedded, gate, requests))
    middle = range(len(scores) // 3, 2 * len(scores) // 3)
    at = max(middle, key=lambda i: scores[i + 1] - scores[i])
    assert scores[at + 1] - scores[at] > 10 * CLOSE
    return steering.with_gate(gate.with_threshold((scores[at] + scores[at + 1]) / 2)).with_defaults(gate=True)


@pytest.fixture(scope="session")
def gated_file(gated: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gated.save(tmp_path_factory.mktemp("gated") / "gated.safetensors")


@pytest.fixture(scope="session")
def gated_expected(
    embedded: sarsteer.AudioLanguageModel,
    gated: sarsteer.Steering,
    requests: list[Request],
    expected: dict[float, list[list[int]]],
) -> dict[float, list[list[int]]]:
    """The gated transformers engine's answers, at 5 times alpha, or an open gate would change little."""
    answers = {
        alpha: transformers_tokens(embedded, gated, requests, TIMES * alpha, TOKENS) if alpha else expected[0.0]
        for alpha in ALPHAS
    }
    changed = [a != b for a, b in zip(answers[ALPHAS[-1]], expected[0.0], strict=True)]
    assert any(changed), "the gate opened for no request: the tests prove nothing"
    assert not all(changed), "the gate opened for every request: the tests prove nothing"
    return answers
