"""Drift of live scores, and the logs that they are read from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, ks_2samp

from sarsteer.errors import ManifestError, SteeringError
from sarsteer.steering.gate.drift import MIN_REQUESTS, Share, drift
from sarsteer.steering.gate.gate import Decision, Gate
from sarsteer.steering.gate.log import append_decisions, has_scores, read_scores
from sarsteer.steering.gate.reference import with_traffic
from tests.steering.gate.test_conformal import calibrated


def traffic(n: int, mean: float = -1.0, seed: int = 2) -> list[float]:
    return np.random.default_rng(seed).normal(mean, 0.5, n).tolist()


@pytest.fixture
def gate() -> Gate:
    return with_traffic(calibrated(), traffic(500, seed=1), max_refused=0.02)


def test_the_same_traffic_does_not_drift(gate: Gate) -> None:
    report = drift(gate, traffic(300))
    assert (report.verdict, report.reasons, report.requests, report.reference) == ("no drift", (), 300, 500)
    assert report.expected == 0.02
    assert report.out_of_distribution is None
    test = ks_2samp(traffic(300), traffic(500, seed=1))
    assert (report.statistic, report.p_value) == pytest.approx((test.statistic, test.pvalue))


@pytest.mark.parametrize("mean", [-0.5, -1.6])
def test_shifted_traffic_drifts(gate: Gate, mean: float) -> None:
    report = drift(gate, traffic(300, mean))
    assert report.verdict == "drift"
    assert any(("higher" if mean > -1 else "lower") in reason for reason in report.reasons)
    assert any("above the threshold" in reason for reason in report.reasons) == (mean > -1)


def test_a_few_more_refusals_drift_without_another_distribution(gate: Gate) -> None:
    report = drift(gate, [*traffic(1000), *[3.0] * 30])
    assert report.verdict == "drift"
    assert report.statistic < 0.1
    assert report.above.low > 0.02


def test_few_requests_give_no_verdict(gate: Gate) -> None:
    assert drift(gate, [9.0] * (MIN_REQUESTS - 1)).verdict == "too few requests"
    with pytest.raises(SteeringError, match="no live scores"):
        drift(gate, [])


def test_nan_counts_as_above(gate: Gate) -> None:
    assert drift(gate, [math.nan] * 40).above.value == 1.0


def test_the_interval_is_wilson_s() -> None:
    share = Share.of([True] * 3 + [False] * 97)
    interval = binomtest(3, 100).proportion_ci(method="wilson")
    assert (share.value, share.low, share.high) == pytest.approx((0.03, interval.low, interval.high))


def test_logs_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_decisions(path, [Decision(0.5, 1.0, 0.2, 0.9, False), Decision(math.nan, 1.0, 0.0, None, True)], group="x")
    append_decisions(path, [Decision(-1.0, 0.0, 0.0, 3.0, False)])
    with path.open("a") as file:
        file.write(json.dumps({"status": 400, "score": None}) + "\n")  # a request that was refused before its decision
        file.write(json.dumps({"answers": ["..."], "gate": {"score": 2, "distance": None}}) + "\n\n")
    rows = read_scores(path)
    assert [(row.distance, row.out_of_distribution, row.group) for row in rows] == [
        (0.9, False, "x"),
        (None, True, "x"),
        (3.0, False, "all"),
        (None, False, "all"),
    ]
    assert [row.score for row in rows] == pytest.approx([0.5, math.nan, -1.0, 2.0], nan_ok=True)
    assert has_scores(path)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"score": "high"}', '{"score": true}', "3"])
def test_bad_logs_name_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"score": 1}\n' + line + "\n")
    with pytest.raises(ManifestError, match='line 2: is not a JSON object with a "score"'):
        read_scores(path)
    path.write_text(line)
    assert not has_scores(path) or line.startswith('{"score')
    with pytest.raises(ManifestError, match="no such file"):
        read_scores(tmp_path / "missing.jsonl")
