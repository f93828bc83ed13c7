"""A gate that is drawn with a secret key."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs
from sarsteer.defenses import DEFENSES, BuiltDefense, DefenseContext, Requirement, build_defense
from sarsteer.errors import EvaluationError, SarsteerError
from sarsteer.evaluation.controls import PlannedDefense, with_controls
from sarsteer.runtime.answerer import Answerer

KEY = "a key of the tests"


def drawn(built: BuiltDefense, turns: list[Any]) -> list[int]:
    return [built.pool.index(built.member_for(turn)) for turn in turns]


def as_data(part: dict[str, Any]) -> dict[str, Any]:
    """A clip's path as a data URL, as the harness sends it."""
    if part["type"] != "audio":
        return part
    (path,) = (part[key] for key in part if key != "type")
    return {"type": "audio", "url": f"data:audio/wav;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"}


@pytest.fixture
def context(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, calibration_pairs: Pairs, tmp_path: Path
) -> DefenseContext:
    return DefenseContext(embedded, steering=steering, pairs=calibration_pairs[:40], cache=tmp_path)


def test_gates_are_drawn_by_a_secret_key(
    context: DefenseContext, embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SARSTEER_GATE_KEY", raising=False)
    spec = "random-gate:3,alpha=0.3,fpr=0.2"
    built = build_defense(DEFENSES.parse(spec), context)
    gates = built.settings["gate"]
    assert len(set(gates)) == len(built.pool) == 3, "fitted on different parts"
    items = [*test_pairs[:6].harmful, *test_pairs[:6].safe]
    turns = [item.turn("Answer.") for item in items]
    first = drawn(built, turns)
    assert len(set(first)) > 1
    assert drawn(build_defense(DEFENSES.parse(spec), context), turns) == first, "the folder keeps its key"
    encoded = [[{**turn[0], "content": [as_data(part) for part in turn[0]["content"]]}] for turn in turns]
    assert drawn(built, encoded) == first, "of the samples, wherever they are from"
    assert (context.cache / "random-gate.key").stat().st_mode & 0o077 == 0  # type: ignore[operator]

    monkeypatch.setenv("SARSTEER_GATE_KEY", KEY)
    other = build_defense(DEFENSES.parse(spec), context)
    assert other.settings["key"] != built.settings["key"]
    assert other.settings["gate"] != gates, "the parts are secret, too"
    assert KEY not in other.key
    assert KEY not in repr(other)

    answerer = Answerer(embedded)
    try:
        together = answerer.answer(built, turns[:4], 8)
        alone = [answerer.answer(built.pool[i], [turn], 8)[0] for i, turn in zip(first, turns[:4], strict=False)]
    finally:
        answerer.close()
    assert [reply.text for reply in together] == [reply.text for reply in alone]  # type: ignore[union-attr]
    assert [reply.details["drawn_gate"] for reply in together] == first[:4]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spec", "key", "says"),
    [
        ("random-gate:1", KEY, "gates must be from 2 to 32, not 1"),
        ("random-gate:2", "short", "SARSTEER_GATE_KEY has 5 characters; use at least 16"),
        ("random-gate:2,fpr=0.001", KEY, "5 parts of 28 pairs gave no gate; the last one: "),
    ],
)
def test_mistakes(spec: str, key: str, says: str, context: DefenseContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSTEER_GATE_KEY", key)
    with pytest.raises(SarsteerError, match=says) as raised:
        build_defense(DEFENSES.parse(spec), context)
    assert "\n" not in str(raised.value)


def test_it_gets_no_controls() -> None:
    rows = [PlannedDefense("random-gate", DEFENSES.parse("random-gate"))]
    available = set(Requirement)
    assert with_controls(rows, available) == rows
    both = [*rows, PlannedDefense("sarsteer", DEFENSES.parse("sarsteer"))]
    assert {row.control_of for row in with_controls(both, available)} == {None, "sarsteer"}


def test_a_key_in_a_spec_is_refused() -> None:
    with pytest.raises(EvaluationError, match="logs would contain key; set SARSTEER_GATE_KEY instead"):
        DEFENSES.parse(f"random-gate:2,key={KEY}")
