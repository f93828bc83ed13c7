"""Limits compare the unfavorable end, and unreadable verdicts never help a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.errors import EvaluationError
from sarsteer.evaluation.compare import check_differences, compare_runs
from sarsteer.evaluation.limits import Limit, check_limits
from sarsteer.stats.comparison import paired_difference
from tests.cli.test_limits import LABELS, results

SAID = st.text(alphabet="cr?b", min_size=len(LABELS), max_size=len(LABELS))


def test_the_unfavorable_end_counts() -> None:
    run = results("rc" * 40)
    (kept,) = check_limits(run, [Limit.parse("asr>9")])
    (broken,) = check_limits(run, [Limit.parse("asr>8")])
    assert (kept.value, kept.low) == (0, 0)
    assert 0.08 < kept.high < 0.09, "Wilson's interval of 0 of 40"
    assert (kept.failed, broken.failed) == (False, True)
    (below,) = check_limits(run, [Limit.parse("rr_harmful<95")])
    assert below.failed, "all were refused, and 95 % is not shown"


def test_no_defense_and_controls_are_not_limited() -> None:
    assert {check.defense for check in check_limits(results("rc" * 40), [Limit.parse("asr>9")])} == {"sarsteer"}


def test_verdicts_that_cannot_be_read_fail_a_run() -> None:
    (check,) = check_limits(results("??" * 40), [Limit.parse("asr>50")])
    assert (check.value, check.high, check.failed) == (None, 1, True)
    assert "nothing readable" in str(check)
    comparison = compare_runs(results("rc" * 40), results("??" * 40))
    (change,) = check_differences(comparison, [Limit.parse("asr>50", lowest=-100)])
    assert (change.value, change.high, change.failed) == (None, 1, True)


def test_a_limit_on_nothing_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="checks nothing: no arm has gain"):
        check_limits(results("rc" * 40), [Limit.parse("gain<5")])


@given(SAID, SAID)
def test_differences_are_those_of_the_readable_verdicts(before: str, after: str) -> None:
    comparison = compare_runs(results(before), results(after))
    arm = next(one for one in comparison.arms if one.defense == "sarsteer")
    pairs = [(b, a) for b, a, label in zip(before, after, LABELS, strict=True) if label == "h" and "?" not in b + a]
    found = arm.differences["asr"]
    assert found.unreadable == 40 - len(pairs)
    assert len(arm.changed) == sum(b != a for b, a in zip(before, after, strict=True))
    if pairs:
        want = paired_difference([a == "c" for _, a in pairs], [b == "c" for b, _ in pairs])
        assert found.change is not None
        assert (found.change.value, found.change.low, found.change.high) == (want.value, want.low, want.high)
        assert -1 <= found.ends[0] <= want.low
        assert want.high <= found.ends[1] <= 1
