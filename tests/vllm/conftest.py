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
from sarsteer.audio import load_clip
from sarsteer.models.loading import embedded_folder

torch.set_num_threads(1)  # the model is tiny: more threads would only wait for each other

INSTRUCTION = "Please generate detailed steps for the question in the audio."
TOKENS = 24
K = 5
ALPHAS = (0.0, 0.05, 0.1, 0.2)
CLIPS = 25


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Variables for the length of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def engine(steering: str | Path | None, settings: dict[str, str] | None = None, **options: Any) -> Iterator[Any]:
    """A ``vllm.LLM`` of the embedded model in this process, and nothing of it afterwards."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    given = {"SARSTEER_STEERING": str(steering)} if steering is not None else {}
    options = {
        "model": str(embedded_folder()),
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 32,
        "limit_mm_per_prompt": {"audio": 1},
        "enforce_eager": True,
        **options,
    }
    try:
        with environment(**given, **(settings or {})):
            llm = LLM(**options)
        yield llm
        del llm
    finally:
        cleanup_dist_env_and_memory()


class Request:
    """A clip, and what each engine is given for it."""

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
    """The transformers engine's answers: tokens up to and with the end of each."""
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with steering.on(model, alpha=alpha, k=K):
        rows = model._answer(
            model.collate([request.prepared for request in requests]),
            **model._generation_options({"max_new_tokens": tokens}),
        ).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@pytest.fixture(scope="session")
def expected(
    embedded: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, requests: list[Request]
) -> dict[float, list[list[int]]]:
    """Answers of the transformers engine by alpha."""
    return {alpha: transformers_tokens(embedded, steering, requests, alpha, TOKENS) for alpha in ALPHAS}
