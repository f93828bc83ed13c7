"""The benchmarks of attacks, at the smallest size, with the toy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from benchmarks import attack_overview, best_of_n, gradient_attacks
from benchmarks.countermeasures import through_transcripts


@pytest.fixture
def options(steering: sarsteer.Steering, tmp_path: Path) -> list[str]:
    file = tmp_path / "steering.safetensors"
    steering.save(file)
    return ["sarsteer-tiny", "--steering", str(file), "--benchmark", "embedded", "--out", str(tmp_path / "out.json")]


def run(module: Any, options: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", [module.__name__, *options])
    module.main()
    return json.loads(Path(options[options.index("--out") + 1]).read_text())


def test_gradient_attacks_report_harmful_and_harmless_requests_and_resume(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    always = "sarsteer:alpha=0.3,k=0,gate=off"
    runs = [f"{always} | pgd:0.0005,steps=10", "none | universal:0.0005,steps=1,clips=1"]
    options += ["--limit", "2", "--harmless", "1", "--max-new-tokens", "8", "--folder", str(tmp_path / "work")]
    options += [word for one in runs for word in ("--run", one)]
    found = run(gradient_attacks, options, monkeypatch)["records"]
    assert list(found) == runs
    for rows in found.values():
        assert [row["harmful"] for row in rows] == [True, False, True], "mixed evenly"
        assert all(row["wer"] is not None for row in rows)
    printed = capsys.readouterr().out
    title, line = (
        next(one for one in printed.splitlines() if one.startswith(start)) for start in ("| defense", "| `s")
    )
    assert title.split(" | ")[-2:] == ["harmless refused, no attack", "harmless refused |"]
    assert line.split(" | ")[2] == "2", "the rates count harmful requests only"
    files = [
        options[options.index("--out") + 1],
        "--label",
        f"{always}=always on",
        "--figure",
        str(tmp_path / "all.png"),
    ]
    monkeypatch.setattr(sys, "argv", ["attack_overview", *files])
    attack_overview.main()
    assert "| `pgd:0.0005,steps=10` | always on | 2 |" in capsys.readouterr().out
    assert (tmp_path / "all-dark.png").is_file()
    again = run(gradient_attacks, options, monkeypatch)["records"]
    for rows in (*found.values(), *again.values()):
        for row in rows:
            row.pop("cpu_seconds")
    assert again == found


def test_best_of_n_counts_draws_that_were_not_misheard(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options += ["--defense", "none", "--limit", "2", "--n", "8", "--harmless-draws", "2", "--max-new-tokens", "8"]
    options += ["--work", str(tmp_path / "work"), "--max-wer", "0.5", "--figure", str(tmp_path / "curve.png")]
    (row,) = run(best_of_n, options, monkeypatch)["rows"].values()
    for first, understood in zip(row["first"], row["understood"], strict=True):
        assert understood is None or first <= understood
    assert row["harmless_refused"]["n"] == 4
    assert (tmp_path / "curve-light.png").is_file()


def test_guards_are_attacked_through_their_transcripts() -> None:
    assert through_transcripts("pgd:0.002,steps=5", None) == "transcript-target:0.002,steps=5"
    assert through_transcripts("pgd", "wash it") == "transcript-target:heard=wash it"
    assert through_transcripts("suffix:0.1", None) == "suffix:0.1,source=undefended"
    assert through_transcripts("silence", None) == "silence"
