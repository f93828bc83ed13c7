"""Speculative decoding, in a separate, last file: with numba imported, vLLM 0.32 creates no second engine."""

from __future__ import annotations

from pathlib import Path

import sarsteer
from tests.vllm.conftest import ALPHAS, TIMES, K, Request, engine
from tests.vllm.test_engine import Answers, ask_all, sampling

FREE = {"SARSTEER_ALLOW_OVERRIDE": "0:1"}


def test_ngram_drafts_change_no_token(
    gated: sarsteer.Steering,
    requests: list[Request],
    expected: Answers,
    gated_expected: Answers,
    tmp_path: Path,
) -> None:
    """Steered always, and gated, in one batch."""
    count = 8
    always = gated.with_defaults(alpha=ALPHAS[-1], k=K, gate=False).save(tmp_path / "always.safetensors")
    own = gated.with_defaults(alpha=TIMES * ALPHAS[-1], k=K).save(tmp_path / "gated.safetensors")
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    with engine(f"always={always},gated={own}", FREE, speculative_config=drafts) as llm:
        answers = ask_all(llm, requests[:count])
        outputs = llm.generate(
            [request.prompt for request in requests[:count]], sampling(sarsteer_set="gated"), use_tqdm=False
        )
    assert answers == {alpha: expected[alpha][:count] for alpha in ALPHAS}
    assert [list(output.outputs[0].token_ids) for output in outputs] == gated_expected[ALPHAS[-1]][:count]
