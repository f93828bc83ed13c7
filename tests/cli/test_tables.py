"""What commands print at 40, 60 and 80 columns: nothing is cut, and names can be copied whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sarsteer import Steering
from sarsteer.cli import output
from sarsteer.cli.tables import print_facts, print_named
from sarsteer.models.family import families
from tests.cli.command import run

LONG = "sarsteer:alpha=0.1234567,k=12,lambda=0.87654321,gate=logistic"
Printed = Callable[..., list[str]]
WIDTHS = pytest.mark.parametrize("width", [40, 60, 80])


@pytest.fixture(scope="module")
def file(steering: Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("tables") / "steering.safetensors")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    def printed(width: int, show: Callable[..., None], *arguments: object) -> list[str]:
        monkeypatch.setattr(output.console, "_width", width)
        show(*arguments)
        return capsys.readouterr().out.splitlines()

    return printed


@WIDTHS
@pytest.mark.parametrize("name", ["none", LONG])
def test_names_and_numbers_are_whole(printed: Printed, width: int, name: str) -> None:
    rows = [(name, ("91.0\n[dim]88-95[/]", "0.5\n0-2")), ("guard", ("3.0", "4.0"))]
    lines = printed(width, print_named, "defense", ("ASR ↓", "RR\nharmful ↑"), rows)
    assert [line for line in lines if name in line], "in one piece"
    assert max(len(line.rstrip()) for line in lines if LONG not in line) <= width
    assert "…" not in "".join(lines)
    numbers = [line.split()[-2:] for line in lines if line.split()[-2:] in (["91.0", "0.5"], ["88-95", "0-2"])]
    assert numbers == [["91.0", "0.5"], ["88-95", "0-2"]]
    ends = {len(line.rstrip()) for line in lines if line.rstrip().endswith(("0.5", "0-2", "4.0", "harmful ↑"))}
    assert len(ends) == 1, "aligned on the right"


@WIDTHS
def test_facts_wrap_between_words_only(printed: Printed, width: int) -> None:
    path = "/a/folder/with-many-hyphens/and/a-very-long-name/of-a-checkpoint"
    lines = printed(width, print_facts, [("model", path), ("text", "word " * 40), ("none", "")])
    assert lines[0] == f"model  {path}"
    assert all(len(line) <= width for line in lines[1:])
    assert "".join(lines).count("word") == 40


@pytest.mark.parametrize("width", [60, 80])
def test_show_is_readable(file: Path, steering: Steering, width: int) -> None:
    done = run("show", file, width=width)
    assert done.status == 0, done.err
    assert "…" not in done.out
    assert max(map(len, done.out.splitlines())) <= width
    table = done.out[done.out.index("‖r‖") :].splitlines()
    for row in steering.report():
        numbers = (f"{row.refusal_norm:.3g}", f"{row.vector_norm:.3g}", f"{row.relative_strength:.3f}")
        line = next(line for line in table if line.split()[:1] == [str(row.layer)])
        assert set(numbers) <= set(line.split())
        assert "█" in line


@WIDTHS
def test_every_checkpoint_is_whole(width: int) -> None:
    lines = run("models", width=width).out.splitlines()
    for family in families():
        for name in family.checkpoints:
            assert f"  {name}" in lines


def test_doctor_has_a_verdict_for_every_use() -> None:
    from importlib.metadata import metadata

    facts = run("doctor", "--json").json
    assert set(facts["extras"]) == set(metadata("sarsteer").get_all("Provides-Extra") or ()) - {"dev"}
    assert facts["extras"]["plot"] == []
    text = run("doctor", width=200).out
    for use, verdict in facts["uses"].items():
        assert use in text
        assert verdict.startswith(("ready", "not ready: "))
        assert verdict in text
    for command in ("calibrate", "respond", "layers", "evaluate", "reproduce", "tune", "serve", "pairs", "speak"):
        assert any(command in use for use in facts["uses"])


def test_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sarsteer.cli.doctor._missing", lambda extra: ["optuna"] if extra == "tune" else [])
    done = run("doctor", width=200)
    assert "missing: optuna" in done.out
    assert "not ready: pip install 'sarsteer[tune]'" in done.out
    assert done.out.count("not ready") == 1


def test_the_layers_fit_60_columns(printed: Printed) -> None:
    from sarsteer.cli.layers import _print
    from sarsteer.tuning.layer_study import LayerRow, LayerStudy
    from sarsteer.tuning.scores import SurrogateScores
    from tests.tuning.test_front import point

    scores = SurrogateScores(0.0, 1.0, 0.25)
    rows = tuple(LayerRow(layer, scores, 0.12345, scores if layer else None) for layer in (0, 31))
    lines = printed(60, _print, LayerStudy(point(0.1, 1, 0, 0).configuration, rows, scores, scores), 50)
    assert max(len(line.rstrip()) for line in lines) <= 60
    assert [line.split() for line in lines[2:5]] == [
        ["all", "0.1", "100", "100", "25"],
        ["0", "0.123", "100", "100", "25"],
        ["31", "0.123", "100", "100", "25", "100", "100", "25"],
    ]
