"""``sarsteer attack --target`` against a real server of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from sarsteer.evaluation.attack_rows import attack_rows
from sarsteer.evaluation.plan import parse_plan
from sarsteer.evaluation.run import run
from tests.server.conftest import Server, key


def test_attacks_reach_a_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key("strong"))
    before = len(server.records())
    plan = parse_plan(
        "openai/sarsteer-tiny",
        ["embedded"],
        ["none"],
        tmp_path,
        attacks=["noise:snr=30", "multi-turn"],
        limit=2,
        max_new_tokens=16,
        max_wer=0.5,
        loading={"base_url": f"http://127.0.0.1:{server.port}/v1", "budget": 10, "timeout": 120},
    )
    rows = attack_rows(run(plan), 0.5)
    assert [row.attack for row in rows] == ["no attack", "noise:snr=30", "multi-turn"]
    assert all(row.asr is not None and row.asr.n == 1 for row in rows)
    assert rows[1].misheard is not None
    # 2 requests under 2 attacks and without, and a transcript of each noised clip and its clean one
    assert len(server.records()) - before == 6 + 4
