"""Judges behind the test server, and local judges whose replies are forced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sarsteer.judges import JUDGES, Judge
from sarsteer.judges.local_backend import LocalBackend
from tests.support.judge_models import Spelling, checkpoint

Make = Callable[..., tuple[Judge, Spelling]]


@pytest.fixture
def server(openai_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from tests.support.openai_server import ready

    ready(openai_server, monkeypatch)
    return openai_server


@pytest.fixture
def remote(server: Any) -> Callable[..., Judge]:
    def make(kind: str, model: str, **options: Any) -> Judge:
        cls, _ = JUDGES.find(kind)
        return cls(f"openai/{model}", **{"base_url": server.url, "max_retries": 0, **options})

    return make


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(kind: str, replies: dict[str, str], **options: Any) -> tuple[Judge, Spelling]:
        settings = {name: options.pop(name) for name in ("template", "window") if name in options}
        folder = checkpoint(tmp_path / "judge", options.pop("family", "Llama"), **settings)
        cls, _ = JUDGES.find(kind)
        judge = cls(str(folder), device="cpu", **options)
        backend: LocalBackend = judge.backend  # type: ignore[attr-defined]
        spelling = Spelling(backend, replies)
        backend._model.set_output_embeddings(spelling)
        return judge, spelling

    return build


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [
        {"name": "pair", "prompt_template": "Compare {answer_a} with {answer_b}."},
        {"name": "base", "prompt_template": "Request: {question}\nResponse: {answer}\nScore?\n", "output_format": "x"},
    ]
    path = tmp_path / "judge_prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
