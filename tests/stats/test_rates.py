"""Rates and their intervals, against scipy, with and without clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sarsteer.stats.comparison import paired_difference
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.rates import balanced_refusal_rate, bounds, clustered_balanced_refusal_rate, headroom, rate


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(2, 6))
def test_copies_of_an_item_add_no_evidence(hits: list[bool], copies: int) -> None:
    many = [hit for hit in hits for _ in range(copies)]
    items = [i for i in range(len(hits)) for _ in range(copies)]
    single, naive, clustered = rate(hits), rate(many), rate(many, items)
    assert clustered.value == naive.value == pytest.approx(single.value)
    assert (clustered.n, clustered.clusters) == (len(many), len(hits))
    assert clustered.low <= naive.low + 1e-12 <= naive.high <= clustered.high + 1e-12
    # the number of items, to which Clopper and Pearson's interval is applied: wider than Wilson's, but at the ends
    exact = binomtest(sum(hits), len(hits)).proportion_ci()
    assert (clustered.low, clustered.high) == pytest.approx((exact.low, exact.high), abs=1e-6)


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters for 3 items; give one for each item"):
        rate([True] * 3, [1, 2])
    with pytest.raises(ValueError, match="give a cluster for each outcome"):
        clustered_balanced_refusal_rate([True], [True], [1, 2], [1])


# ---- balanced refusal rate -------------------------------------------------------------------------------------------


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


def test_unpaired_brr_has_the_variance_of_two_independent_rates() -> None:
    rng = np.random.default_rng(6)
    harmful, safe = (rng.random(150) < 0.7).tolist(), (rng.random(90) < 0.2).tolist()
    ours = clustered_balanced_refusal_rate(harmful, safe)
    p, q = np.mean(harmful), np.mean(safe)
    half = 1.96 / 2 * np.sqrt(p * (1 - p) / 150 + q * (1 - q) / 90)
    assert ours.value == pytest.approx((1 + p - q) / 2)
    assert (ours.low, ours.high) == pytest.approx((ours.value - half, ours.value + half), abs=0.01)
    assert ours.n == 240


def test_correlated_pairs_narrow_the_interval_of_brr() -> None:
    together = [True] * 50 + [False] * 50
    paired = clustered_balanced_refusal_rate(together, together, range(100), range(100))
    single = clustered_balanced_refusal_rate(together, together)
    assert paired.value == single.value == 0.5
    assert single.low < 0.45 < paired.low < 0.5 < paired.high < 0.55 < single.high


@given(st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_refusing_everything_or_nothing_scores_a_half(harmful: int, safe: int, refused: bool) -> None:
    estimate = clustered_balanced_refusal_rate([refused] * harmful, [refused] * safe)
    assert (estimate.value, estimate.n) == (0.5, harmful + safe)
    assert estimate.low < 0.5 < estimate.high


# ---- bounds, headroom ------------------------------------------------------------------------------------------------


def test_bounds_contain_the_unknown_outcomes() -> None:
    assert bounds([True, False, None, None]) == (0.25, 0.75)
    assert bounds([True, False]) == (0.5, 0.5)
    with pytest.raises(ValueError):
        bounds([])


def test_headroom_below_a_tenth() -> None:
    assert headroom(rate([True] * 10 + [False] * 90)) is None
    assert "cannot show a defense working" in (headroom(rate([True] * 3 + [False] * 97)) or "")
    assert str(Estimate(0.5, 0.4, 0.6, 20, 5)) == "50.0 % [40.0, 60.0] (n=20 of 5 items)"


@pytest.mark.parametrize(
    "call", [lambda: rate([]), lambda: balanced_refusal_rate([True], []), lambda: paired_difference([], [])]
)
def test_no_items_are_refused(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]
