"""The tutorial runs from its first block to its last, as written."""

from __future__ import annotations

from pathlib import Path

import pytest

import sarsteer
from sarsteer.tiny.world import REFUSAL
from tests.cli.command import run
from tests.docs.snippets import ROOT, blocks, commands

TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.slow
def test_the_tutorial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    embedded: sarsteer.AudioLanguageModel,
    steering: sarsteer.Steering,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("inspect_ai")
    monkeypatch.chdir(tmp_path)
    # the session's model, and its calibration from 24 pairs, which would take a minute from 100
    monkeypatch.setattr(sarsteer, "load_model", lambda name: embedded, raising=False)
    monkeypatch.setattr(sarsteer, "calibrate", lambda model, pairs: steering, raising=False)
    names: dict[str, object] = {}
    printed = []
    for block in blocks(TUTORIAL):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
            printed.append(capsys.readouterr().out)
        for words in commands(block) if block.language == "sh" else ():
            if words[0] == "sarsteer":
                done = run(*words[1:])
                assert done.status == 0, f"{block.place}: {done.err}"
                printed.append(done.out)
    undefended, show, defended, respond, table = printed[0], *printed[2:6]
    assert REFUSAL not in undefended
    assert "layer" in show
    assert REFUSAL in defended.splitlines()[0]
    assert REFUSAL in respond
    assert "sarsteer:alpha=0.1,k=5" in table
    assert "score" in printed[-1]
    assert "strength 1" not in printed[-1]
    assert (tmp_path / "report.html").stat().st_size > 10_000
