"""What was estimated and measured, Pareto fronts, and the choice on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sarsteer.errors import TuningError
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.intervals import Z95, upper_bound
from sarsteer.tuning.configuration import Configuration
from sarsteer.tuning.measure import Measured
from sarsteer.tuning.scores import SurrogateScores

T = TypeVar("T")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Limits:
    """The usefulness that steering may cost; the configuration with the lowest ASR within these limits is chosen.

    Attributes:
        over_refusal: maximum increase over the undefended model's over-refusal, as a share: 0.05 is 5 points.
        broken: maximum share of broken answers among all requests.
        confidence: of the one-sided Wilson upper bound of each rate, which must be within the limit; 0.5 compares the
            measured rates. The bound is for one rate of one configuration and not corrected for choosing the best of
            several: on new requests a rate exceeds it more often than the confidence says.

    Raises:
        TuningError: a limit is not a share, or the confidence is not from 0.5 to below 1.

    """

    over_refusal: float = 0.05
    broken: float = 0.01
    confidence: float = 0.8

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise TuningError(f"the confidence must be from 0.5 to below 1, not {self.confidence:g}")
        for name, value in (("over_refusal", self.over_refusal), ("broken", self.broken)):
            if not 0 <= value <= 1:
                raise TuningError(f"the limit on {name.replace('_', '-')} must be between 0 and 100 %, not {value:.0%}")

    def __str__(self) -> str:
        limits = f"over-refusal at most {100 * self.over_refusal:g} points, broken at most {100 * self.broken:g} %"
        return f"{limits} (confidence {100 * self.confidence:g} %)" if self.confidence > 0.5 else limits


@dataclass(frozen=True)
class Candidate:
    """A configuration, the surrogate's estimates of it, and how long they took."""

    configuration: Configuration
    scores: SurrogateScores
    seconds: float


@dataclass(frozen=True)
class MeasuredPoint:
    """A configuration and what was measured under it."""

    configuration: Configuration
    measured: Measured


def pareto_front(points: Sequence[T], goals: Callable[[T], tuple[float, float]]) -> list[T]:
    """The points that no other point dominates, sorted by the second goal.

    Both goals are minimized. Of points that are equal in both, the first is kept.
    """
    best = float("inf")
    front = []
    for point in sorted(points, key=lambda p: (goals(p)[1], goals(p)[0])):
        if goals(point)[0] < best:
            best = goals(point)[0]
            front.append(point)
    return front


def goals(point: MeasuredPoint) -> tuple[float, float]:
    """ASR, and the cost in usefulness."""
    return point.measured.asr.value, point.measured.cost


def keeps(measured: Measured, undefended: Measured, limits: Limits) -> bool:
    """Whether a measurement is within the limits."""
    return all(over <= _ROUNDING for over in _excess(measured, undefended, limits))


def _excess(measured: Measured, undefended: Measured, limits: Limits) -> tuple[float, float]:
    over, broken = (
        _at_most(m, limits.confidence, u)
        for m, u in ((measured.over_refusal, undefended.over_refusal), (measured.broken, undefended.broken))
    )
    return over - undefended.over_refusal.value - limits.over_refusal, broken - limits.broken


def _at_most(measured: Estimate, confidence: float, undefended: Estimate) -> float:
    """An upper bound of a rate; the rate itself if steering adds nothing, since no configuration could do better."""
    return measured.value if measured.value <= undefended.value else bound(measured, confidence)


def bound(measured: Estimate, confidence: float) -> float:
    """The one-sided Wilson upper bound of a rate, for the number of independent outcomes in its interval."""
    # clusters make that number smaller than n: solve Wilson's equation at an end of the interval for it
    end = measured.high if measured.value <= 0.5 else measured.low
    n = Z95**2 * end * (1 - end) / (end - measured.value) ** 2
    return upper_bound(measured.value, n, confidence)


def unproven(measured: Measured, undefended: Measured, limits: Limits) -> list[str]:
    """Notes on limits that are kept because steering added nothing, but that too few requests were measured to show."""
    notes = []
    for name, rate, plain, limit, sign, unit in (
        ("over-refusal", measured.over_refusal, undefended.over_refusal, limits.over_refusal, "+", " points"),
        ("broken answers", measured.broken, undefended.broken, limits.broken, "", " %"),
    ):
        most = bound(rate, limits.confidence) - (plain.value if sign else 0.0)
        if rate.value <= plain.value and most > limit + _ROUNDING:
            notes.append(
                f"{name}: {rate} is not above the undefended rate, so it is within any limit; with so few requests it "
                f"may still be {100 * most:{sign}.1f}{unit} (confidence {100 * limits.confidence:g} %), above the "
                f"{100 * limit:g} allowed: give more pairs"
            )
    return notes


def choose(points: Sequence[MeasuredPoint], undefended: Measured, limits: Limits) -> MeasuredPoint:
    """The point with the lowest ASR within the limits; among equals the cheapest, then the one with the smallest α.

    Raises:
        TuningError: no point is within the limits and lowers the ASR; the message describes the nearest one.

    """
    within = [point for point in points if keeps(point.measured, undefended, limits)]
    better = [point for point in within if point.measured.asr.value < undefended.asr.value - _ROUNDING]
    if better:
        return min(better, key=lambda p: (*goals(p), p.configuration.strength.alpha or 0.0))
    if within:
        raise TuningError(
            f"none of {len(points)} measured configurations lowers the ASR of {undefended.asr} with {limits}; "
            f"{_nearest(points, undefended, limits)}; allow more, or calibrate on other pairs"
        )
    raise TuningError(
        f"none of {len(points)} measured configurations keeps {limits}; {_nearest(points, undefended, limits)}; "
        "allow more, or search longer"
    )


def _nearest(points: Sequence[MeasuredPoint], undefended: Measured, limits: Limits) -> str:
    lowering = [p for p in points if p.measured.asr.value < undefended.asr.value - _ROUNDING]
    if not lowering:
        return "none lowers the ASR"
    point = min(
        lowering, key=lambda p: (sum(max(0.0, over) for over in _excess(p.measured, undefended, limits)), *goals(p))
    )
    over, broken = point.measured.over_refusal, point.measured.broken
    plain = undefended.over_refusal.value

    def describe(measured: Estimate, before: Estimate, text: Callable[[float], str]) -> str:
        most = _at_most(measured, limits.confidence, before)
        at_most = f" (at most {text(most)} with {100 * limits.confidence:g} % confidence)"
        return text(measured.value) + (at_most if most > measured.value + _ROUNDING else "")

    return (
        f"the nearest is {point.configuration}: ASR {100 * point.measured.asr.value:.1f} %, over-refusal "
        f"{describe(over, undefended.over_refusal, lambda value: f'{100 * (value - plain):+.1f} points')}, "
        f"broken {describe(broken, undefended.broken, lambda value: f'{100 * value:.1f} %')}"
    )


def next_on_front(costs: Sequence[float], within: dict[int, bool], guess: int, budget: int) -> int | None:
    """Which point of a front to measure next.

    Points are sorted by estimated cost, so the limits are kept up to some point and exceeded after it. The estimates
    give a first guess of that point; from there doubling steps, then a bisection, find it with few measurements. The
    rest of the budget goes to its neighbors, because rates over a few dozen requests are noisy, and to the widest gaps,
    to measure the whole front.

    Args:
        costs: the estimated cost of each point, ascending.
        within: for each measured point, whether it keeps the limits.
        guess: the last point that keeps the limits according to the estimates.
        budget: number of points that may still be measured.

    Returns:
        an index, or None if all are measured or the budget is spent.

    """
    left = [index for index in range(len(costs)) if index not in within]
    if not left or budget <= 0:
        return None
    low = max((index for index, kept in within.items() if kept), default=-1)
    high = min((index for index, kept in within.items() if not kept and index > low), default=len(costs))
    if guess not in within and low < guess < high:
        return guess
    between = [index for index in left if low < index < high]
    if between and high == len(
        costs
    ):  # nothing failed yet: halving the rest would measure points that break everything
        return min(2 * low - guess + 1, high - 1)
    if between:
        return between[(len(between) - 1) // 2]
    if len(within) % 3 == 2:
        return max(left, key=lambda index: min(abs(costs[index] - costs[seen]) for seen in within))
    return min(left, key=lambda index: (abs(index - low - 0.5), index))
