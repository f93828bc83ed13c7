"""The bootstrap over clusters, against slow references written another way, and against scipy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from sarsteer.stats.bootstrap import mean
from sarsteer.stats.comparison import paired_difference
from sarsteer.stats.rates import clustered_balanced_refusal_rate


def slow_interval(values: np.ndarray, clusters: list[int], draws: int = 4000) -> tuple[float, float]:
    """The percentile interval by drawing clusters one by one, and joining their values."""
    rng = np.random.default_rng(7)
    groups = [values[np.array(clusters) == c] for c in sorted(set(clusters))]
    means = [
        np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean() for _ in range(draws)
    ]
    return tuple(np.percentile(means, [2.5, 97.5]))


def test_the_bootstrap_matches_drawing_clusters_one_by_one() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 25, 120).tolist()
    first = rng.random(120) < 0.3 + 0.4 * (np.array(clusters) % 2)
    second = rng.random(120) < 0.3
    ours = paired_difference(first.tolist(), second.tolist(), clusters=clusters)
    assert (ours.low, ours.high) == pytest.approx(slow_interval(first * 1.0 - second, clusters), abs=0.015)
    assert (ours.n, ours.clusters) == (120, 25)


def test_the_bootstrap_matches_scipy() -> None:
    values = np.random.default_rng(1).normal(5, 2, 80)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=2).confidence_interval
    ours = mean(values.tolist())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.08)


def test_ten_thousand_items_need_little_memory() -> None:
    rng = np.random.default_rng(5)
    tracemalloc.start()
    paired_difference((rng.random(10_000) < 0.5).tolist(), (rng.random(10_000) < 0.4).tolist())
    clustered_balanced_refusal_rate((rng.random(10_000) < 0.5).tolist(), (rng.random(9_000) < 0.1).tolist())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
