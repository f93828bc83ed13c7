"""Paired differences, the sign-flip test and Holm's correction, against scipy and slow references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sarsteer.stats.comparison import compare, holm, paired_difference, sign_flip_p

ARM = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def test_a_paired_difference_uses_the_pairing() -> None:
    first = [True] * 50 + [False] * 50
    same, opposite = paired_difference(first, first), paired_difference(first, [not x for x in first])
    assert same.high < 0.03 < 0.1 < opposite.high


@given(ARM)
def test_identical_arms_differ_by_zero_and_are_not_proven_equal(rows: list[tuple[bool, bool, int]]) -> None:
    arm, clusters = [a for a, _, _ in rows], [c for _, _, c in rows]
    for given_clusters in (None, clusters):
        same = paired_difference(arm, arm, clusters=given_clusters)
        assert same.value == 0
        assert same.low < 0 < same.high == pytest.approx(-same.low)
        assert sign_flip_p(arm, arm, given_clusters) == 1.0


@given(ARM)
def test_differences_are_bounded_and_antisymmetric(rows: list[tuple[bool, bool, int]]) -> None:
    first, second, clusters = map(list, zip(*rows, strict=True))
    there, back = (paired_difference(*arms, clusters=clusters) for arms in ((first, second), (second, first)))
    assert there.value == -back.value
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert there.n == len(rows)
    assert sign_flip_p(first, second, clusters) == pytest.approx(sign_flip_p(second, first, clusters))


def test_a_clustered_difference_is_wider_than_the_naive_one() -> None:
    rng = np.random.default_rng(3)
    first, second = (np.repeat(rng.random(40) < p, 10).tolist() for p in (0.6, 0.4))
    naive, clustered = (
        paired_difference(first, second),
        paired_difference(first, second, clusters=[*np.arange(400) // 10]),
    )
    assert clustered.value == naive.value
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(10**0.5, rel=0.1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_one_outcome_per_item_is_mcnemars_exact_test(rows: list[tuple[bool, bool]]) -> None:
    gained, lost = sum(a and not b for a, b in rows), sum(b and not a for a, b in rows)
    theirs = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert sign_flip_p([a for a, _ in rows], [b for _, b in rows]) == pytest.approx(theirs)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 7)), min_size=1, max_size=30))
def test_the_sign_flip_test_counts_all_flips(rows: list[tuple[bool, bool, int]]) -> None:
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
def test_holm_matches_its_definition(p_values: list[float]) -> None:
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
