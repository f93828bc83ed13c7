"""Intervals against scipy, published formulas and slow references; their limits; and how often they hold the truth."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sarsteer.stats.clusters import cluster_sums, effective_clusters, effective_sample_size
from sarsteer.stats.comparison import paired_difference
from sarsteer.stats.intervals import (
    Z95,
    clopper_pearson_interval,
    difference_interval,
    mean_interval,
    share_interval,
    upper_bound,
    wilson_interval,
)
from sarsteer.stats.means import mean
from sarsteer.stats.rates import balanced_refusal_rate, clustered_balanced_refusal_rate, rate

OUTCOMES = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=80)


def table(hits: list[int], sizes: list[int]) -> np.ndarray:
    return np.stack([hits, sizes], axis=1).astype(float)


# ---- shares ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.data())
def test_single_outcomes_match_scipy(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    for ours, method in ((wilson_interval(hits / n, n), "wilson"), (clopper_pearson_interval(hits / n, n), "exact")):
        theirs = stats.binomtest(hits, n).proportion_ci(method=method)
        assert tuple(map(float, ours)) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert upper_bound(hits / n, n, 0.975) == pytest.approx(float(wilson_interval(hits / n, n)[1]))
    assert upper_bound(hits / n, n, 0.5) == pytest.approx(hits / n)


@given(OUTCOMES)
def test_a_share_is_in_its_interval_and_its_complement_mirrors_it(rows: list[tuple[bool, int]]) -> None:
    hits, clusters = [hit for hit, _ in rows], [cluster for _, cluster in rows]
    estimate, misses = rate(hits, clusters), rate([not hit for hit in hits], clusters)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert (1 - misses.high, 1 - misses.low) == pytest.approx((estimate.low, estimate.high), abs=1e-9)


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_clusters_of_one_outcome_change_nothing(hits: list[bool]) -> None:
    assert rate(hits, range(len(hits))) == rate(hits)
    assert paired_difference(hits, hits[::-1], clusters=range(len(hits))) == paired_difference(hits, hits[::-1])
    assert mean(hits, range(len(hits)), limits=(0, 1)) == mean(hits, limits=(0, 1))


@given(st.lists(st.integers(1, 12), min_size=2, max_size=30), st.data())
def test_the_first_hit_does_not_lower_the_upper_end(sizes: list[int], data: st.DataObject) -> None:
    """Without a hit, and with one, nothing tells how dependent the outcomes of an item are."""
    if max(sizes) == 1:
        sizes[0] = 2
    item = data.draw(st.integers(0, len(sizes) - 1))
    none, one, all_of_one = (
        table([hits if i == item else 0 for i in range(len(sizes))], sizes) for hits in (0, 1, sizes[item])
    )
    worth = float(effective_clusters(np.array(sizes, float)))
    assert float(share_interval(none)[1]) == pytest.approx(1 - 0.025 ** (1 / worth))
    for some in (one, all_of_one):
        assert float(effective_sample_size(some)) == pytest.approx(worth)
        assert float(share_interval(some)[1]) > float(share_interval(none)[1])


def test_few_hits_of_ten_items_have_no_jump() -> None:
    """The upper end was 28 % without a hit and 5 % with one."""
    ends = [100 * float(share_interval(table([1] * k + [0] * (10 - k), [10] * 10))[1]) for k in range(6)]
    assert ends == pytest.approx([30.8, 32.4, 26.5, 22.5, 21.0, 20.7], abs=0.05)


def test_the_effective_sample_size_is_korn_and_graubards() -> None:
    """With many clusters the imaginary one hardly counts."""
    rng = np.random.default_rng(0)
    hits = rng.binomial(5, rng.beta(0.6, 1.4, 400))
    p = hits.sum() / 2000
    between = 400 / 399 * sum((h - 5 * p) ** 2 for h in hits) / 2000**2
    design_effect = between / (p * (1 - p) / 1999)
    few = (stats.t.ppf(0.975, 1999) / stats.t.ppf(0.975, 399)) ** 2
    sums = table(hits.tolist(), [5] * 400)
    assert float(effective_sample_size(sums)) == pytest.approx(2000 / design_effect * few, rel=0.01)
    assert design_effect > 2
    low, high = share_interval(sums)
    worth = float(effective_sample_size(sums))
    assert float(low) == pytest.approx(stats.beta.ppf(0.025, p * worth, worth - p * worth + 1))
    assert float(high) == pytest.approx(stats.beta.ppf(0.975, p * worth + 1, worth - p * worth))


@given(OUTCOMES)
def test_outcomes_are_worth_at_least_their_clusters_and_at_most_themselves(rows: list[tuple[bool, int]]) -> None:
    columns = np.array([[hit, 1] for hit, _ in rows], float)
    sums = cluster_sums(columns, [cluster for _, cluster in rows])
    least = float(effective_clusters(sums[:, 1]))
    assert least - 1e-9 <= float(effective_sample_size(sums)) <= len(rows) + 1e-9


# ---- differences -----------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_pairs_give_bonett_and_prices_interval(rows: list[tuple[bool, bool]]) -> None:
    n, gained, lost = len(rows), sum(a and not b for a, b in rows), sum(b and not a for a, b in rows)
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    ours = paired_difference([a for a, _ in rows], [b for _, b in rows])
    value = (gained - lost) / n
    assert ours.low == pytest.approx(min(value, max(-1, up - down - half)), abs=1e-9)
    assert ours.high == pytest.approx(max(value, min(1, up - down + half)), abs=1e-9)
    brr = balanced_refusal_rate([a for a, _ in rows], [b for _, b in rows])
    assert (brr.low, brr.high) == pytest.approx(((1 + ours.low) / 2, (1 + ours.high) / 2))


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.lists(st.booleans(), min_size=1, max_size=40))
def test_arms_without_pairs_give_agresti_and_caffos_interval(first: list[bool], second: list[bool]) -> None:
    (n, p), (m, q) = ((len(arm) + 2, (sum(arm) + 1) / (len(arm) + 2)) for arm in (first, second))
    half = Z95 * math.sqrt(p * (1 - p) / n + q * (1 - q) / m)
    ours = clustered_balanced_refusal_rate(first, second)
    assert ours.low == pytest.approx(min(ours.value, (1 + max(-1, p - q - half)) / 2), abs=1e-9)
    assert ours.high == pytest.approx(max(ours.value, (1 + min(1, p - q + half)) / 2), abs=1e-9)


def test_copies_of_pairs_add_no_evidence() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random(60) < 0.5).tolist(), (rng.random(60) < 0.3).tolist()
    once = paired_difference(first, second)
    copied = paired_difference(first * 4, second * 4, clusters=[*range(60)] * 4)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=0.005)


# ---- means -----------------------------------------------------------------------------------------------------------


def test_without_limits_a_mean_has_students_interval() -> None:
    values = np.random.default_rng(1).normal(5, 2, 30)
    theirs = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    ours = mean(values.tolist())
    assert (ours.value, ours.low, ours.high) == pytest.approx((values.mean(), *theirs))
    assert mean(values.tolist(), limits=(theirs[0] - 9, math.inf)).low == pytest.approx(theirs[0])
    copies = mean(np.repeat(values, 3).tolist(), np.repeat(np.arange(30), 3).tolist())
    assert (copies.low, copies.high) == pytest.approx(theirs)
    assert (copies.n, copies.clusters) == (90, 30)
    alone = mean([0.2], limits=(0, math.inf))
    assert (alone.low, alone.high) == (0, math.inf)


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 5)), min_size=1, max_size=40))
def test_a_score_is_in_its_interval_and_on_its_scale(rows: list[tuple[int, int]]) -> None:
    score = mean([value for value, _ in rows], [cluster for _, cluster in rows], limits=(1, 10))
    assert 1 <= score.low <= score.value + 1e-9
    assert score.value - 1e-9 <= score.high <= 10


def test_a_score_at_the_end_of_its_scale_leaves_room_for_what_was_not_seen() -> None:
    best = mean([10.0] * 20, limits=(1, 10))
    assert (best.value, best.high) == (10, 10)
    assert best.low == pytest.approx(10 - 9 * float(wilson_interval(0.0, 20.0)[1]))
    middle = [4.0, 5.0, 6.0, 7.0] * 5
    plain, limited = mean(middle), mean(middle, limits=(1, 10))
    assert (limited.low, limited.high) == pytest.approx((plain.low, plain.high), abs=0.05)


def test_values_outside_the_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="values from 0 to 11 are outside 1 to 10"):
        mean([0, 5, 11], limits=(1, 10))
    with pytest.raises(ValueError, match="an estimate over no items is undefined"):
        mean([])


# ---- coverage --------------------------------------------------------------------------------------------------------


def coverage(interval: tuple[np.ndarray, np.ndarray], true: float) -> float:
    return float(np.mean((interval[0] <= true + 1e-9) & (true - 1e-9 <= interval[1])))


@pytest.mark.parametrize("clusters", [10, 30])
@pytest.mark.parametrize("correlation", [0.1, 0.8])
@pytest.mark.parametrize("p", [0.02, 0.2, 0.5])
def test_clustered_shares_hold_the_truth(clusters: int, correlation: float, p: float) -> None:
    """Of 2,000 intervals of 95 % 93.5 % hold it: three standard errors (0.5 %) below 95 %."""
    rng = np.random.default_rng(4)
    prior = (1 - correlation) / correlation
    hits = rng.binomial(5, rng.beta(p * prior, (1 - p) * prior, (2000, clusters)))
    sums = np.stack([hits, np.full_like(hits, 5)], axis=-1).astype(float)
    assert coverage(share_interval(sums), p) > 0.935


@pytest.mark.parametrize("clusters", [10, 30])
@pytest.mark.parametrize("rates", [(0.05, 0.01), (0.99, 0.01), (0.5, 0.2), (1.0, 0.95)])
@pytest.mark.parametrize("size", [1, 4])
def test_differences_hold_the_truth(clusters: int, rates: tuple[float, float], size: int) -> None:
    """Of 2,000 intervals 92 % hold it: three standard errors below the 93.5 % that the benchmark finds at worst."""
    rng = np.random.default_rng(5)
    shared, single = rng.random((2000, clusters, 1)), rng.random((2000, clusters, size))
    chance = np.where(rng.random(single.shape) < 0.3, shared, single)  # one draw for both arms: they depend on another
    hits = [(chance < p).sum(-1) for p in rates]
    sums = np.stack([hits[0], np.full_like(hits[0], size), hits[1], np.full_like(hits[0], size)], -1).astype(float)
    assert coverage(difference_interval(sums), rates[0] - rates[1]) > 0.92


def test_scores_near_the_top_hold_the_truth() -> None:
    """A percentile bootstrap holds it in half of these cases: most samples have no 1 at all."""
    values = np.where(np.random.default_rng(6).random((2000, 20)) < 0.03, 1.0, 10.0)
    sums = np.stack([values, np.ones_like(values)], axis=-1)
    assert coverage(mean_interval(sums, 1, 10), 0.03 * 1 + 0.97 * 10) > 0.935


def test_ten_thousand_items_need_little_memory() -> None:
    rng = np.random.default_rng(5)
    tracemalloc.start()
    paired_difference((rng.random(10_000) < 0.5).tolist(), (rng.random(10_000) < 0.4).tolist())
    clustered_balanced_refusal_rate((rng.random(10_000) < 0.5).tolist(), (rng.random(9_000) < 0.1).tolist())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
