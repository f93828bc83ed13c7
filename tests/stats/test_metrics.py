"""Rates and intervals, against scipy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sarsteer.stats.metrics import balanced_refusal_rate, paired_difference, rate


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_wilson_agrees_with_scipy(hits: list[bool]) -> None:
    ours = rate(hits)
    theirs = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    assert ours.value == pytest.approx(sum(hits) / len(hits))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.n == len(hits)


def test_brr_of_the_extremes() -> None:
    yes, no = [True] * 20, [False] * 20
    assert balanced_refusal_rate(yes, no).value == 1.0
    assert balanced_refusal_rate(no, yes).value == 0.0
    for refuses_all_or_nothing in (yes, no):
        assert balanced_refusal_rate(refuses_all_or_nothing, refuses_all_or_nothing).value == 0.5


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_brr_is_its_formula_within_its_interval(outcomes: list[tuple[bool, bool]]) -> None:
    harmful, safe = [a for a, _ in outcomes], [b for _, b in outcomes]
    estimate = balanced_refusal_rate(harmful, safe)
    n = len(outcomes)
    assert estimate.value == pytest.approx((1 + sum(harmful) / n - sum(safe) / n) / 2)
    assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12
    assert balanced_refusal_rate(harmful, safe) == estimate, "the interval must not change from run to run"


def test_a_paired_difference_uses_the_pairing() -> None:
    first = [True] * 50 + [False] * 50
    same = paired_difference(first, first)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert paired_difference(first, [not x for x in first]).low < 0


@pytest.mark.parametrize(
    "call", [lambda: rate([]), lambda: balanced_refusal_rate([True], []), lambda: paired_difference([], [])]
)
def test_no_items(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]
