"""Intervals and tests of clustered outcomes, against slow references written another way, and against scipy."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sarsteer.stats.comparison import compare, holm, sign_flip_p
from sarsteer.stats.metrics import (
    Estimate,
    balanced_refusal_rate_of,
    bounds,
    cohens_kappa,
    headroom,
    mean,
    paired_difference,
    rate,
)

ARM = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def slow_interval(values: np.ndarray, clusters: list[int], draws: int = 4000) -> tuple[float, float]:
    """The percentile interval by drawing clusters one by one, and joining their values."""
    rng = np.random.default_rng(7)
    groups = [values[np.array(clusters) == c] for c in sorted(set(clusters))]
    means = [
        np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean() for _ in range(draws)
    ]
    return tuple(np.percentile(means, [2.5, 97.5]))


def test_the_bootstrap_is_that_of_drawing_clusters_one_by_one() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 25, 120).tolist()
    first = rng.random(120) < 0.3 + 0.4 * (np.array(clusters) % 2)
    second = rng.random(120) < 0.3
    ours = paired_difference(first.tolist(), second.tolist(), clusters=clusters)
    assert (ours.low, ours.high) == pytest.approx(slow_interval(first * 1.0 - second, clusters), abs=0.015)
    assert (ours.n, ours.clusters) == (120, 25)


def test_the_bootstrap_agrees_with_scipys() -> None:
    values = np.random.default_rng(1).normal(5, 2, 80)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=2).confidence_interval
    ours = mean(values.tolist())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.08)


@given(ARM)
def test_identical_arms_differ_by_exactly_nothing(rows: list[tuple[bool, bool, int]]) -> None:
    arm, clusters = [a for a, _, _ in rows], [c for _, _, c in rows]
    for given_clusters in (None, clusters):
        same = paired_difference(arm, arm, clusters=given_clusters)
        assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
        assert sign_flip_p(arm, arm, given_clusters) == 1.0


@given(ARM)
def test_differences_are_bounded_and_antisymmetric(rows: list[tuple[bool, bool, int]]) -> None:
    first, second, clusters = map(list, zip(*rows, strict=True))
    there, back = (paired_difference(*arms, clusters=clusters) for arms in ((first, second), (second, first)))
    assert there.value == -back.value
    assert -1 <= there.low <= there.high <= 1
    assert there.n == len(rows)
    assert sign_flip_p(first, second, clusters) == pytest.approx(sign_flip_p(second, first, clusters))


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(2, 6))
def test_copies_of_an_item_are_no_new_evidence(hits: list[bool], copies: int) -> None:
    many = [hit for hit in hits for _ in range(copies)]
    items = [i for i in range(len(hits)) for _ in range(copies)]
    alone, naive, honest = rate(hits), rate(many), rate(many, items)
    assert honest.value == naive.value == pytest.approx(alone.value)
    assert (honest.n, honest.clusters) == (len(many), len(hits))
    assert honest.low <= naive.low + 1e-12 <= naive.high <= honest.high + 1e-12
    # as wide as without the copies, or a little wider: the variance of clusters divides by C - 1
    assert honest.high - honest.low == pytest.approx(alone.high - alone.low, rel=0.45, abs=1e-9)
    assert honest.high - honest.low >= alone.high - alone.low - 1e-9


def test_a_clustered_difference_is_wider_than_the_naive_one() -> None:
    rng = np.random.default_rng(3)
    first, second = (np.repeat(rng.random(40) < p, 10).tolist() for p in (0.6, 0.4))
    naive, honest = paired_difference(first, second), paired_difference(first, second, clusters=[*np.arange(400) // 10])
    assert honest.value == naive.value
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(10**0.5, rel=0.1)


def test_the_clustered_interval_covers_the_truth() -> None:
    """Items differ in how often they are refused; of 95 % intervals about 95 % must hold the mean."""
    rng = np.random.default_rng(4)
    items = np.repeat(np.arange(40), 5)
    held = {"clustered": 0, "naive": 0}
    for _ in range(400):
        chance = rng.beta(0.6, 1.4, 40)
        hits = (rng.random(200) < chance[items]).tolist()
        for name, estimate in (("clustered", rate(hits, items.tolist())), ("naive", rate(hits))):
            held[name] += estimate.low <= 0.3 <= estimate.high
    assert held["clustered"] > 0.92 * 400
    assert held["naive"] < 0.90 * 400


def test_ten_thousand_items_need_little_memory() -> None:
    rng = np.random.default_rng(5)
    tracemalloc.start()
    paired_difference((rng.random(10_000) < 0.5).tolist(), (rng.random(10_000) < 0.4).tolist())
    balanced_refusal_rate_of((rng.random(10_000) < 0.5).tolist(), (rng.random(9_000) < 0.1).tolist())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


# ---- balanced refusal ------------------------------------------------------------------------------------------------


def test_unpaired_brr_has_the_variance_of_two_independent_rates() -> None:
    rng = np.random.default_rng(6)
    harmful, safe = (rng.random(150) < 0.7).tolist(), (rng.random(90) < 0.2).tolist()
    ours = balanced_refusal_rate_of(harmful, safe)
    p, q = np.mean(harmful), np.mean(safe)
    half = 1.96 / 2 * np.sqrt(p * (1 - p) / 150 + q * (1 - q) / 90)
    assert ours.value == pytest.approx((1 + p - q) / 2)
    assert (ours.low, ours.high) == pytest.approx((ours.value - half, ours.value + half), abs=0.01)
    assert ours.n == 240


def test_pairs_that_are_refused_together_make_brr_surer() -> None:
    together = [True] * 50 + [False] * 50
    paired = balanced_refusal_rate_of(together, together, range(100), range(100))
    assert (paired.value, paired.low, paired.high) == pytest.approx((0.5, 0.5, 0.5))
    alone = balanced_refusal_rate_of(together, together)
    assert alone.low < 0.5 < alone.high


@given(st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_refusing_everything_or_nothing_scores_a_half(harmful: int, safe: int, refused: bool) -> None:
    estimate = balanced_refusal_rate_of([refused] * harmful, [refused] * safe)
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (0.5, 0.5, 0.5, harmful + safe)


# ---- tests and corrections -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_one_outcome_an_item_is_mcnemars_exact_test(rows: list[tuple[bool, bool]]) -> None:
    gained, lost = sum(a and not b for a, b in rows), sum(b and not a for a, b in rows)
    theirs = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert sign_flip_p([a for a, _ in rows], [b for _, b in rows]) == pytest.approx(theirs)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 7)), min_size=1, max_size=30))
def test_the_sign_flip_test_is_the_count_of_all_flips(rows: list[tuple[bool, bool, int]]) -> None:
    sums: dict[int, int] = {}
    for a, b, cluster in rows:
        sums[cluster] = sums.get(cluster, 0) + int(a) - int(b)
    totals = [abs(sum(s * d for s, d in zip(signs, sums.values(), strict=True))) for signs in
              itertools.product((1, -1), repeat=len(sums))]  # fmt: skip
    slow = np.mean([total >= abs(sum(sums.values())) for total in totals])
    assert sign_flip_p(*map(list, zip(*rows, strict=True))) == pytest.approx(slow)


def test_many_discordant_items_do_not_overflow() -> None:
    assert sign_flip_p([True] * 2100 + [False] * 1900, [False] * 2100 + [True] * 1900) == pytest.approx(
        stats.binomtest(2100, 4000).pvalue, rel=1e-6
    )


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    ours = holm(p_values)
    order = sorted(p_values)
    for p, corrected in zip(p_values, ours, strict=True):
        rank = order.index(p)
        slow = max([min(1.0, (len(order) - j) * order[j]) for j in range(rank + 1)], default=0.0)
        assert corrected == pytest.approx(slow) or p_values.count(p) > 1
        assert p - 1e-12 <= corrected <= min(1.0, len(p_values) * p + 1e-12)


def test_compare_names_its_test() -> None:
    baseline = [False] * 30
    arms = {"strong": [True] * 12 + [False] * 18, "idle": baseline}
    found = compare(arms, baseline)
    assert found["strong"].test == "McNemar's exact test"
    assert found["strong"].p == pytest.approx(2 * 0.5**12)
    assert found["strong"].p_holm == pytest.approx(4 * 0.5**12)
    assert found["idle"].p == found["idle"].p_holm == 1.0
    assert found["strong"].difference.value == 0.4
    over_items = compare(arms, baseline, clusters=[i // 6 for i in range(30)])
    assert over_items["strong"].test == "exact sign-flip test over clusters"
    assert over_items["strong"].p == pytest.approx(0.5), "two items changed, not twelve"


# ---- agreement, bounds, headroom -------------------------------------------------------------------------------------


def test_kappa_of_a_known_table() -> None:
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    kappa = cohens_kappa(first, second)
    assert kappa.value == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    # Cohen's own large-sample standard error: sqrt(p_o (1 - p_o) / n) / (1 - p_e) = 0.13
    assert (kappa.low, kappa.high) == pytest.approx((0.4 - 1.96 * 0.13, 0.4 + 1.96 * 0.13), abs=0.03)
    assert str(kappa).startswith("0.40 [0.1")


@given(st.lists(st.tuples(st.sampled_from([*"abc", None]), st.sampled_from([*"abc", None])), min_size=1, max_size=30))
def test_kappa_is_symmetric_and_leaves_out_what_was_not_told(rows: list[tuple[str | None, str | None]]) -> None:
    first, second = [a for a, _ in rows], [b for _, b in rows]
    told = [(a, b) for a, b in rows if a and b]
    if not told:
        with pytest.raises(ValueError, match="agreement over no items"):
            cohens_kappa(first, second)
        return
    there, back = cohens_kappa(first, second), cohens_kappa(second, first)
    assert there.value == pytest.approx(back.value, nan_ok=True)
    assert there.n == len(told)
    assert np.isnan(there.value) or -1 <= there.value <= 1


def test_bounds_hold_what_could_not_be_told() -> None:
    assert bounds([True, False, None, None]) == (0.25, 0.75)
    assert bounds([True, False]) == (0.5, 0.5)
    with pytest.raises(ValueError):
        bounds([])


def test_headroom_speaks_under_a_tenth() -> None:
    assert headroom(rate([True] * 10 + [False] * 90)) is None
    assert "cannot show a defense working" in (headroom(rate([True] * 3 + [False] * 97)) or "")
    assert str(Estimate(0.5, 0.4, 0.6, 20, 5)) == "50.0 % [40.0, 60.0] (n=20 of 5 items)"


def test_clusters_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 clusters for 3 items; give one for each item"):
        rate([True] * 3, [1, 2])
    with pytest.raises(ValueError, match="give a cluster for each outcome"):
        balanced_refusal_rate_of([True], [True], [1, 2], [1])
