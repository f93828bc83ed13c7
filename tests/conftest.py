"""Fixtures: the embedded model, a tiny random Qwen2-Audio, and a small calibration, each made once."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core; more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import soundfile
import torch

import sarsteer
from sarsteer.data.pairs import Pairs
from tests.support.tiny import tiny_qwen2_audio

hypothesis.settings.register_profile("untimed", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("untimed")
collect_ignore = [] if importlib.util.find_spec("vllm") else ["vllm"]  # make test-vllm has its own environment


@pytest.fixture(scope="session")
def embedded() -> sarsteer.AudioLanguageModel:
    return sarsteer.load_model("sarsteer-tiny", device="cpu")


@pytest.fixture(scope="session")
def calibration_pairs() -> Pairs:
    return sarsteer.load_pairs("sarsteer-tiny", "calibration")


@pytest.fixture(scope="session")
def test_pairs() -> Pairs:
    return sarsteer.load_pairs("sarsteer-tiny", "test")


@pytest.fixture(scope="session")
def steering(embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs) -> sarsteer.Steering:
    return sarsteer.calibrate(embedded, calibration_pairs[:24], batch_size=8)


@pytest.fixture(scope="session")
def tiny() -> sarsteer.AudioLanguageModel:
    return tiny_qwen2_audio(seed=0)


@pytest.fixture(scope="module")
def openai_server() -> Iterator[Any]:
    """An OpenAI-compatible server on loopback; see ``openai_server.py``; call ``ready`` before each test."""
    pytest.importorskip("openai")
    pytest.importorskip("fastapi")
    from tests.support.openai_server import running

    with running() as server:
        yield server


@pytest.fixture(scope="module")
def pool(embedded: sarsteer.AudioLanguageModel) -> Iterator[Any]:
    """A pool with the session's model, so that evaluations do not load it again."""
    from sarsteer.runtime.pool import Pool

    pool = Pool()
    pool.add_model(embedded)
    yield pool
    pool.close()


@pytest.fixture
def evaluate(pool: Any) -> Any:
    """Runs an ``EvaluationPlan`` with the session's model."""
    from sarsteer.evaluation.run import run

    return functools.partial(run, pool=pool)


@pytest.fixture
def wave() -> np.ndarray:
    """One second of noise."""
    return (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path, wave: np.ndarray) -> Path:
    path = tmp_path / "clip.wav"
    soundfile.write(path, wave, 16_000, subtype="FLOAT")
    return path


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    torch.manual_seed(0)
