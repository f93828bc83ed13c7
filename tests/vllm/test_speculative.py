"""Drafts. In a file of its own, and last: with numba imported, vLLM 0.32 makes no second engine in a process."""

from __future__ import annotations

from pathlib import Path

from tests.vllm.conftest import ALPHAS, Request, engine
from tests.vllm.test_engine import FREE, Answers, ask_all


def test_drafts_from_the_prompt_change_no_token(
    steering_file: Path, requests: list[Request], expected: Answers
) -> None:
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    with engine(steering_file, FREE, speculative_config=drafts) as llm:
        found = ask_all(llm, requests[:8])
    assert found == {alpha: expected[alpha][:8] for alpha in ALPHAS}
