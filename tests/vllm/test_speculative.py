"""Speculative decoding, in a separate, last file: with numba imported, vLLM 0.32 creates no second engine."""

from __future__ import annotations

from pathlib import Path

from tests.vllm.conftest import ALPHAS, Request, engine
from tests.vllm.test_engine import FREE, Answers, ask_all


def test_ngram_drafts_change_no_token(steering_file: Path, requests: list[Request], expected: Answers) -> None:
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    with engine(steering_file, FREE, speculative_config=drafts) as llm:
        answers = ask_all(llm, requests[:8])
    assert answers == {alpha: expected[alpha][:8] for alpha in ALPHAS}
