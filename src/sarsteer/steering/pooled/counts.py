"""What histograms say about scores: AUROC, quantiles, and values that stand for the clips of each bin."""

from __future__ import annotations

import math

import torch

from sarsteer.steering.pooled.rounds import BINS, RANGE, edges


def auroc(harmful: torch.Tensor, safe: torch.Tensor) -> tuple[float, float]:
    """AUROC of two histograms and its standard error (Hanley and McNeil, 1982); clips of one bin count half."""
    n, m = float(harmful.sum()), float(safe.sum())
    if n < 1 or m < 1:
        return 0.5, 0.5
    below = safe.cumsum(0) - safe
    area = float((harmful * (below + safe / 2)).sum()) / (n * m)
    area = min(max(area, 0.0), 1.0)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    return area, math.sqrt(max(variance, 0.0))


def p_value(harmful: torch.Tensor, safe: torch.Tensor) -> float:
    """One-sided Mann-Whitney test of scores that no detector was fitted to or chosen on, with a correction for ties."""
    from scipy.stats import norm

    n, m = float(harmful.sum()), float(safe.sum())
    if n < 1 or m < 1:
        return 1.0
    both, total = harmful + safe, n + m
    ties = float((both**3 - both).sum()) / (total * max(total - 1, 1.0))
    deviation = math.sqrt(max(n * m / 12 * (total + 1 - ties), 1e-12))
    return float(norm.sf((auroc(harmful, safe)[0] - 0.5) * n * m / deviation))


def moments(histogram: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of scores."""
    middles = _middles()
    n = float(histogram.sum())
    mean = float(histogram @ middles) / n
    return mean, math.sqrt(max(float(histogram @ (middles - mean).square()) / n, 0.0))


def quantile(histogram: torch.Tensor, share: float, low: float, high: float) -> float:
    """The value that ``share`` of the values are below, linear within a bin."""
    bins = len(histogram) - 2
    cumulative = histogram.cumsum(0)
    rank = share * float(cumulative[-1])
    index = int(torch.searchsorted(cumulative, torch.tensor(rank, dtype=torch.float64)).clamp(1, bins))
    inside, before = float(histogram[index]), float(cumulative[index - 1])
    part = 0.5 if inside <= 0 else min(max((rank - before) / inside, 0.0), 1.0)
    return low + (index - 1 + part) * (high - low) / bins


def limit(histogram: torch.Tensor, share: float, low: float, high: float) -> float:
    """The lowest upper edge of a bin that at most ``share`` of the values are above."""
    bins = len(histogram) - 2
    above = float(histogram.sum()) - histogram.cumsum(0)
    allowed = share * float(histogram.sum()) + 1e-9
    index = int((above <= allowed).nonzero()[0])
    return low + min(max(index, 1), bins) * (high - low) / bins


def values_of(histogram: torch.Tensor, *, upper: bool) -> list[float]:
    """One value for each clip: its bin's upper edge, or its lower one; outside the range, the range's end.

    A threshold from upper edges of safe clips is at or above the one from their scores: the stated rate holds.
    """
    ends = edges(BINS, -RANGE, RANGE)
    low = torch.cat([ends[:1] - 1, ends])
    high = torch.cat([ends, ends[-1:] + 1])
    counts = histogram.round().clamp(min=0).long()
    return (high if upper else low).repeat_interleave(counts).tolist()


def _middles() -> torch.Tensor:
    ends = edges(BINS, -RANGE, RANGE)
    return torch.cat([ends[:1], (ends[1:] + ends[:-1]) / 2, ends[-1:]])
