"""How often 95 % intervals contain the true value, and how wide they are: ``python -m benchmarks.intervals``.

Each cell draws many data sets with a known true value, and compares sarsteer's intervals ("after") with those of
earlier versions ("before": Wilson's at a plain effective sample size, percentile bootstraps over clusters). All cells
go to ``benchmarks/intervals.json``, a summary to ``benchmarks/intervals.md``.

Clustered shares are beta-binomial: ICC is the exact correlation within a cluster. Two arms, and scores, come from
normal latent variables, whose variance is shared within a cluster and between the arms in the proportions given.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from sarsteer.stats.agreement import cohens_kappa
from sarsteer.stats.intervals import difference_interval, mean_interval, share_interval, wilson_interval

HERE = Path(__file__).parent
CLUSTERS = (5, 10, 20, 50, 200)
SIZES = {"1": (1,), "3": (3,), "10": (10,), "1, 1, 3 and 10": (1, 1, 3, 10)}
ICCS = (0.0, 0.1, 0.3, 0.8)
RATES = (0.0, 0.01, 0.02, 0.05, 0.2, 0.5, 0.95, 1.0)
ARMS = (
    (0.0, 0.0),
    (0.01, 0.01),
    (0.05, 0.0),
    (0.05, 0.01),
    (0.2, 0.05),
    (0.5, 0.2),
    (0.5, 0.5),
    (0.95, 0.05),
    (0.99, 0.01),
    (1.0, 0.0),
    (1.0, 0.95),
)
SCALE = (1.0, 10.0)
RESAMPLES = 400
ROUNDING = 1e-9
Array = NDArray[np.float64]
Interval = tuple[Array, Array]


# ---- the intervals of earlier versions -------------------------------------------------------------------------------


def share_before(sums: Array) -> Interval:
    """Wilson's, at the plain effective sample size: the number of clusters if all outcomes are equal, else up to n."""
    hits, sizes = sums[..., 0], sums[..., 1]
    clusters, n = sizes.shape[-1], sizes.sum(-1)
    p = hits.sum(-1) / n
    variance = clusters / (clusters - 1) * ((hits - p[:, None] * sizes) ** 2).sum(-1) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        effective = np.where(variance <= 0, n, np.clip(p * (1 - p) / variance, 1, n))
    effective = np.where((p == 0) | (p == 1), clusters, effective)
    return wilson_interval(p, n if clusters == n[0] else effective)


def percentile(strata: list[Array], statistic: Callable[[Array], Array], rng: np.random.Generator) -> Interval:
    """The percentile bootstrap over the clusters of each stratum ``[S, C, K]``; all data sets share the draws."""
    totals = sum(
        np.tensordot(
            rng.multinomial(t.shape[1], np.full(t.shape[1], 1 / t.shape[1]), RESAMPLES).astype(float), t, (1, 1)
        )
        for t in strata
    )
    low, high = np.percentile(statistic(np.asarray(totals)), [2.5, 97.5], axis=0)
    return low, high


def difference_of(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3])


def mean_of(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1])


def kappa_of(tables: Array) -> Array:
    """κ of tables ``[..., K, K]``."""
    n = tables.sum((-1, -2))
    observed = np.trace(tables, axis1=-2, axis2=-1) / n
    by_chance = (tables.sum(-1) * tables.sum(-2)).sum(-1) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((observed - by_chance) / (1 - by_chance))


# ---- draws -----------------------------------------------------------------------------------------------------------


def shares(rng: np.random.Generator, draws: int, sizes: Array, icc: float, p: float) -> Array:
    """Hits and sizes ``[S, C, 2]``."""
    shape = (draws, len(sizes))
    if icc == 0 or p in (0, 1):
        chance = np.full(shape, p)
    else:
        chance = np.nan_to_num(rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, shape))
    return np.stack([rng.binomial(sizes.astype(int), chance), np.broadcast_to(sizes, shape)], -1).astype(float)


def latent(rng: np.random.Generator, shape: tuple[int, int, int], within: float, arms: float) -> list[Array]:
    """Standard normal variables ``[S, C, m]`` of two arms: correlated within a cluster, and between arms."""

    def pair(shape: tuple[int, int, int]) -> list[Array]:
        both = rng.standard_normal(shape)
        return [math.sqrt(arms) * both + math.sqrt(1 - arms) * rng.standard_normal(shape) for _ in range(2)]

    clusters, single = pair((*shape[:2], 1)), pair(shape)
    return [math.sqrt(within) * a + math.sqrt(1 - within) * b for a, b in zip(clusters, single, strict=True)]


SCORES: dict[str, Callable[[Array], Array]] = {
    "in the middle": lambda x: np.clip(np.round(6 + 2 * x), *SCALE),
    "bad or good": lambda x: np.where(ndtr(x) < 0.3, 1.5, 8.5),
    "near the top": lambda x: np.where(ndtr(x) < 0.08, np.ceil(50 * np.minimum(ndtr(x), 0.08)), 9.0 + (ndtr(x) > 0.4)),
    "10, rarely 1": lambda x: np.where(ndtr(x) < 0.03, 1.0, 10.0),
    "word error rate": lambda x: np.where(ndtr(x) < 0.6, 0.0, 0.1 * np.exp(1.2 * (x - 0.25))),
}


# ---- cells -----------------------------------------------------------------------------------------------------------


def measured(interval: Interval, true: float) -> dict[str, float]:
    low, high = interval
    holds = (low <= true + ROUNDING) & (true - ROUNDING <= high)
    return {"coverage": round(float(holds.mean()), 4), "width": round(float(np.mean(high - low)), 4)}


def cell(kind: str, true: float, before: Interval, after: Interval, **settings: Any) -> dict[str, Any]:
    return {"kind": kind, **settings, "before": measured(before, true), "after": measured(after, true)}


def share_cells(rng: np.random.Generator, draws: int) -> Iterator[dict[str, Any]]:
    for clusters in CLUSTERS:
        for name, pattern in SIZES.items():
            sizes = np.resize(np.array(pattern, float), clusters)
            for icc in ICCS if name != "1" else (0.0,):
                for p in RATES:
                    sums = shares(rng, draws, sizes, icc, p)
                    kind = "share" if name == "1" else "share, clusters"
                    settings = {"clusters": clusters, "size": name, "icc": icc, "rate": p}
                    yield cell(kind, p, share_before(sums), share_interval(sums), **settings)


def difference_cells(rng: np.random.Generator, draws: int) -> Iterator[dict[str, Any]]:
    for clusters in CLUSTERS:
        for size in (1, 3, 10):
            for within in (0.3, 0.8) if size > 1 else (0.0,):
                for arms in (0.0, 0.9):
                    for rates in ARMS:
                        drawn = latent(rng, (draws, clusters, size), within, arms)
                        hits = [(x < ndtri(p)).sum(-1) for x, p in zip(drawn, rates, strict=True)]
                        size_of = np.full((draws, clusters), size)
                        sums = np.stack([hits[0], size_of, hits[1], size_of], -1).astype(float)
                        yield cell(
                            "difference" if size == 1 else "difference, clusters",
                            rates[0] - rates[1],
                            percentile([sums], difference_of, rng),
                            difference_interval(sums),
                            clusters=clusters,
                            size=size,
                            within=within,
                            arms=arms,
                            rates=rates,
                        )


def brr_cells(rng: np.random.Generator, draws: int) -> Iterator[dict[str, Any]]:
    """Half of one plus a difference: over pairs, or over n harmful and n / 2 safe requests without pairs."""
    for n in CLUSTERS[1:]:
        for arms in (0.9, None):
            for rates in ARMS:
                drawn = latent(rng, (draws, n, 1), 0.0, arms or 0.0)
                hits = [(x < ndtri(p))[..., 0].astype(float) for x, p in zip(drawn, rates, strict=True)]
                ones, half = np.ones((draws, n)), n // 2
                if arms is not None:
                    strata = [np.stack([hits[0], ones, hits[1], ones], -1)]
                else:
                    none = np.zeros((draws, n))
                    strata = [np.stack([hits[0], ones, none, none], -1), np.stack([none, none, hits[1], ones], -1)]
                    strata[1] = strata[1][:, :half]
                before = percentile(strata, difference_of, rng)
                after = difference_interval(np.concatenate(strata, axis=1))
                halved = [((1 + low) / 2, (1 + high) / 2) for low, high in (before, after)]
                true = (1 + rates[0] - rates[1]) / 2
                kind = "BRR, pairs" if arms is not None else "BRR, no pairs"
                yield cell(kind, true, *halved, clusters=n, rates=rates)


def mean_cells(rng: np.random.Generator, draws: int) -> Iterator[dict[str, Any]]:
    for clusters in CLUSTERS:
        for size in (1, 3):
            for name, score in SCORES.items():
                within = 0.4 if size > 1 else 0.0
                x = latent(rng, (draws, clusters, size), within, 0.0)[0]
                true = float(score(rng.standard_normal(2_000_000)).mean())
                sums = np.stack([score(x).sum(-1), np.full((draws, clusters), float(size))], -1)
                limits = (0.0, math.inf) if name == "word error rate" else SCALE
                yield cell(
                    "mean without upper limit" if name == "word error rate" else "mean score",
                    true,
                    percentile([sums], mean_of, rng),
                    mean_interval(sums, *limits),
                    clusters=clusters,
                    size=size,
                    scores=name,
                )


def kappa_cells(rng: np.random.Generator, draws: int) -> Iterator[dict[str, Any]]:
    for n in CLUSTERS[1:]:
        for shares in ((0.5, 0.5), (0.9, 0.1), (0.4, 0.3, 0.2, 0.1)):
            for kappa in (0.0, 0.4, 0.8, 0.95, 1.0):
                kinds = len(shares)
                joint = kappa * np.diag(shares) + (1 - kappa) * np.outer(shares, shares)
                tables = rng.multinomial(n, joint.ravel(), draws)
                tables = tables[np.isfinite(kappa_of(tables.reshape(-1, kinds, kinds).astype(float)))]
                resampled = rng.multinomial(n, tables / n, (RESAMPLES, len(tables))).astype(float)
                values = kappa_of(resampled.reshape(RESAMPLES, -1, kinds, kinds))
                before = np.nanpercentile(values, [2.5, 97.5], axis=0)
                judges = [np.repeat(np.indices((kinds, kinds)).reshape(2, -1), row, axis=1) for row in tables]
                found = [cohens_kappa(*judge.astype(str).tolist()) for judge in judges]
                after = np.array([[score.low for score in found], [score.high for score in found]])
                settings = {"clusters": n, "shares": shares, "kappa": kappa, "defined": len(tables) / draws}
                yield cell("κ", kappa, (before[0], before[1]), (after[0], after[1]), **settings)


# ---- the summary -----------------------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]]) -> str:
    """A row per kind and number of clusters."""
    lines = [
        "| interval of | clusters | cells | before: lowest coverage | mean | width | after: lowest | mean | width |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for clusters in sorted({row["clusters"] for row in rows if row["kind"] == kind}):
            some = [row for row in rows if (row["kind"], row["clusters"]) == (kind, clusters)]
            text = [kind, str(clusters), str(len(some))]
            for when in ("before", "after"):
                coverage = [row[when]["coverage"] for row in some]
                text += [f"{100 * min(coverage):.1f}", f"{100 * float(np.mean(coverage)):.1f}"]
                text.append(f"{float(np.mean([row[when]['width'] for row in some])):.3f}")
            lines.append(f"| {' | '.join(text)} |")
    return "\n".join(lines)


def worst(rows: list[dict[str, Any]], count: int = 12) -> str:
    """The cells with the lowest coverage."""
    lines = ["| cell | before | after |", "|---|---|---|"]
    for row in sorted(rows, key=lambda row: row["after"]["coverage"])[:count]:
        named = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("kind", "before", "after", "defined"))
        before, after = (f"{100 * row[when]['coverage']:.1f}" for when in ("before", "after"))
        lines.append(f"| {row['kind']}: {named} | {before} | {after} |")
    return "\n".join(lines)


def hits_of_ten_items() -> str:
    """The upper end for 0 to 5 hits, each in an item of its own, of 10 items with 10 outcomes each."""
    sums = np.stack([np.arange(10) < np.arange(6)[:, None], np.full((6, 10), 10)], -1).astype(float)
    ends = [[f"{100 * high:.1f}" for high in interval(sums)[1]] for interval in (share_before, share_interval)]
    rows = [f"| {name} | {' | '.join(row)} |" for name, row in zip(("before", "after"), ends, strict=True)]
    return "\n".join(["| hits | 0 | 1 | 2 | 3 | 4 | 5 |", "|---|---|---|---|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000, help="data sets per cell")
    draws = parser.parse_args().draws
    began, rng = time.process_time(), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for cells, of in ((share_cells, 4), (difference_cells, 1), (brr_cells, 1), (mean_cells, 1), (kappa_cells, 0.4)):
        rows += cells(rng, int(of * draws))
        print(f"{cells.__name__}: {len(rows)} cells, {time.process_time() - began:.0f} s")
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "intervals.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    text = f"""\
Written by `python -m benchmarks.intervals`: 95 % intervals, coverage in %, {draws} data sets per cell (shares
{4 * draws}, κ {int(0.4 * draws)}). "Before" are Wilson's interval at a plain effective sample size and percentile
bootstraps.

{summary(rows)}

Upper ends, in %, for hits in as many of 10 items with 10 outcomes each:

{hits_of_ten_items()}

Lowest coverage:

{worst(rows)}
"""
    (HERE / "intervals.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
