"""``--fail-if`` and ``sarsteer compare``: exit statuses, and what they print for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarsteer.evaluation.results import Arm, Evaluation
from tests.cli.command import refused, run
from tests.report.test_report import arm, rows

LABELS = "ha" * 40
BEFORE, AFTER = "rc" * 30 + "cc" * 10, "rc" * 28 + "cr" * 4 + "cc" * 8


def results(said: str, name: str = "sarsteer", **changed: Any) -> Evaluation:
    """One benchmark without a defense, under one, and under its control."""
    plain = arm("pairs", "none", rows("pairs", "none", "cc" * 40, LABELS))
    steered = arm("pairs", name, rows("pairs", name, said, LABELS), plain, alpha=0.1)
    control = replace(arm("pairs", f"random of {name}", rows("pairs", "r", "cr" * 40, LABELS)), control_of=name)
    whole = Evaluation({"name": "a model"}, {"name": "keywords", "signature": "keywords/2"}, "sarsteer evaluate",
                       "2026-01-01T00:00:00+00:00", {}, (plain, steered, control))  # fmt: skip
    return replace(whole, **changed)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    for name, said in (("old", BEFORE), ("new", AFTER)):
        (tmp_path / name).mkdir()
        results(said).save(tmp_path / name / "results.json")
    return tmp_path / "old", tmp_path / "new" / "results.json"


def test_a_run_and_its_limits(tmp_path: Path) -> None:
    """Through the model: a run, the same run when it is finished, with and without ``--json``."""
    pytest.importorskip("inspect_ai")
    out = tmp_path / "run"
    command = ("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--limit", "8", "--max-new-tokens", "16",
               "--out", out)  # fmt: skip
    broken = run(*command, "--fail-if", "asr>10", "--fail-if", "over_refusal<99")
    assert broken.status == 3, broken.err
    assert "failed: asr>10: embedded under none has " in broken.err
    arm = Evaluation.load(out).arms[0].summary
    assert arm.asr is not None
    assert f"{100 * arm.asr.high:.1f}]" in broken.err, "the upper end is what counts"
    assert "Results:" in broken.out, "a broken limit does not hide the results"
    printed = run(*command, "--fail-if", "asr>10", "--json")
    assert printed.status == 3
    (check,) = printed.json["limits"]
    assert (check["limit"], check["defense"], check["failed"]) == ("asr>10", "none", True)
    assert check["high"] == pytest.approx(arm.asr.high)
    kept = run(*command, "--fail-if", "asr<1", "--json")
    assert kept.status == (3 if arm.asr.low < 0.01 else 0)
    refused(*command, "--fail-if", "gain<10", says="it needs a steered defense and its random control")


def test_bad_limits_are_refused_before_the_run(tmp_path: Path) -> None:
    for text, says in (
        ("overrefusal>5", "unknown metric 'overrefusal'; use one of asr, over_refusal, rr_harmful"),
        ("asr", "takes METRIC>PERCENT or METRIC<PERCENT, such as 'asr>10', not 'asr'"),
        ("asr>=5", "takes METRIC>PERCENT"),
        ("asr>nan", "'nan' is not a number"),
        ("asr>0.1", "limits are in percent; write 'asr>10'"),
        ("asr>100", "could never fail"),
        ("rr_harmful<0", "could never fail"),
        ("asr>-1", "would always fail"),
    ):
        refused("evaluate", "no/model", "--benchmark", "embedded", "--out", tmp_path, "--fail-if", text, says=says)


def test_compare(runs: tuple[Path, Path]) -> None:
    done = run("compare", *runs, width=60)
    assert done.status == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 60
    assert "sarsteer: 6 requests changed\n" in done.out
    assert "4 safe: complied → refused" in done.out
    assert "25.0→30.0" in done.out
    data = run("compare", *runs, "--json").json
    steered = next(one for one in data["arms"] if one["defense"] == "sarsteer")
    assert steered["differences"]["asr"]["change"]["value"] == pytest.approx(0.05)
    assert steered["differences"]["asr"]["change"]["n"] == 40
    assert len(steered["changed"]) == 6
    assert "said" not in json.dumps(data), "no answers"


def test_compare_and_its_limits(runs: tuple[Path, Path]) -> None:
    done = run("compare", *runs, "--fail-if", "asr>2", "--fail-if", "over_refusal>60", "--json")
    assert done.status == 3, done.err
    assert [check["failed"] for check in done.json["limits"]] == [True, False]
    assert "failed: asr>2: pairs under sarsteer changed by +5.0 points [" in done.err
    assert "passed: over_refusal>60" in done.err
    assert run("compare", runs[0], runs[0], "--fail-if", "asr>20").status == 0
    refused("compare", *runs, "--fail-if", "brr<5", says="unknown metric 'brr'; use one of asr, rr_harmful")


def without(one: Arm, count: int) -> Arm:
    return replace(one, answers=one.answers[count:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: replace(run, arms=tuple(without(one, 2) for one in run.arms)), "80 and 78 requests, 2 only"),
        (lambda run: replace(run, arms=tuple(replace(one, benchmark="x") for one in run.arms)), "benchmarks differ"),
        (lambda run: replace(run, judge={"name": "x", "signature": "x/1"}), "the judges differ (keywords/2; x/1)"),
        (lambda run: replace(run, arms=run.arms[2:]), "only in"),
        (lambda run: replace(run, arms=()), "the benchmarks differ"),
        (
            lambda run: replace(run, arms=tuple(
                replace(one, answers=tuple(replace(a, question="another") for a in one.answers)) for one in run.arms
            )),
            "has another text or label",
        ),
    ],
)  # fmt: skip
def test_other_runs_are_refused(tmp_path: Path, change: Any, says: str) -> None:
    old, new = results(BEFORE).save(tmp_path / "old.json"), change(results(AFTER)).save(tmp_path / "new.json")
    if says == "only in":  # controls only: nothing is shared but the control
        assert run("compare", old, new).status == 0
        return
    refused("compare", old, new, says=says)


def test_another_strength_is_compared(tmp_path: Path) -> None:
    old = results(BEFORE, "sarsteer:alpha=0.1").save(tmp_path / "old.json")
    new = results(AFTER, "sarsteer:alpha=0.2").save(tmp_path / "new.json")
    done = run("compare", old, new, "--fail-if", "asr>2")
    assert done.status == 3
    assert "sarsteer:alpha=0.1 → sarsteer:alpha=0.2" in done.out
    refused("compare", old, tmp_path / "none.json", says="no such file or folder")
