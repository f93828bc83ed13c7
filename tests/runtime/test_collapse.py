"""Collapse: what counts, and a default that breaks answers is never written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import sarsteer
from sarsteer import Steering
from sarsteer.cli.main import app
from sarsteer.data.pairs import Pairs
from sarsteer.errors import CalibrationError, SarsteerError
from sarsteer.runtime.collapse import check_default, has_collapsed, word_entropy

SOUND = "First fill the kettle with fresh water, then boil it, and pour it slowly over the leaves in the pot."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (SOUND, False),
        ("I am sorry, I cannot help with that.", False),
        ("", True),
        ("no no no no no no no no no no no no", True),
        ("I I I I cannot I I I I I cannot I I I I cannot I I", True),
        ("..., ,,, ... !!! ??? ... ,,, !!! ... ,,,", True),
    ],
)
def test_what_has_collapsed(answer: str, expected: bool) -> None:
    assert has_collapsed(answer, SOUND) is expected
    assert not has_collapsed(answer, ""), "an answer that was broken before was not broken by steering"


def test_word_entropy() -> None:
    assert word_entropy("one two three four") == pytest.approx(1)
    assert word_entropy("one one one one") == 0
    assert word_entropy("a a b b") == pytest.approx(0.5)
    assert word_entropy("") == word_entropy("word") == 1


def strong(steering: Steering, times: float) -> Steering:
    return replace(steering, refusal=times * steering.refusal, safe_basis=steering.safe_basis)


def test_a_default_that_breaks_answers_is_halved(
    embedded: sarsteer.AudioLanguageModel, steering: Steering, calibration_pairs: Pairs
) -> None:
    assert [check.passed for check in check_default(embedded, steering, calibration_pairs)] == [True]
    checks = check_default(embedded, strong(steering, 16), calibration_pairs)
    assert len(checks) > 1
    assert [check.passed for check in checks] == [False] * (len(checks) - 1) + [True]
    assert [check.alpha for check in checks] == [0.1 / 2**i for i in range(len(checks))]
    assert not embedded.steered
    with pytest.raises(CalibrationError, match=r"every alpha from 0\.1 down to 0\.003125 breaks answers"):
        check_default(embedded, strong(steering, 2000), calibration_pairs)
    assert not embedded.steered


def test_calibrate_never_writes_a_default_that_breaks_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A push of the activations' whole norm breaks every answer."""
    given = ["calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--limit", "6", "--device", "cpu"]
    app([*given, "--push", "1.0", "--out", str(tmp_path / "a.safetensors")], standalone_mode=False)
    printed = capsys.readouterr()
    lowered = Steering.load(tmp_path / "a.safetensors")
    checks = lowered.metadata["collapse_check"]
    assert lowered.defaults[0] == checks[-1]["alpha"] < checks[0]["alpha"]
    assert "the default is" in printed.err
    app([*given, "--push", "1.0", "--no-check", "--out", str(tmp_path / "b.safetensors")], standalone_mode=False)
    unchecked = Steering.load(tmp_path / "b.safetensors")
    assert unchecked.defaults[0] == checks[0]["alpha"]
    assert "collapse_check" not in unchecked.metadata
    with pytest.raises(SarsteerError, match="--push must be a number above 0"):
        app([*given, "--push", "0", "--out", str(tmp_path / "c.safetensors")], standalone_mode=False)
