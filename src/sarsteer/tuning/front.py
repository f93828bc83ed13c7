"""Pareto fronts, and the choice on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sarsteer.errors import TuningError
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.intervals import Z95, upper_bound
from sarsteer.tuning.measure import Measured
from sarsteer.tuning.setting import Setting

T = TypeVar("T")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Limits:
    """What usefulness may pay; among settings that keep to it the one with the lowest ASR is chosen.

    Attributes:
        over_refusal: the most that may be added to the undefended model's over-refusal, as a share: 0.05 is 5 points.
        broken: the most broken answers, as a share of all requests.
        confidence: of the one-sided Wilson upper bound that each measured rate is held against; 0.5 takes the rates as
            they are. It is of one rate of one setting, and not corrected for having chosen the best of several: new
            requests may pay more than a bound says, and more often than it says.

    Raises:
        TuningError: a limit is no share, or the confidence is not from 0.5 to below 1.

    """

    over_refusal: float = 0.05
    broken: float = 0.01
    confidence: float = 0.8

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise TuningError(f"the confidence must be from 0.5 to below 1, not {self.confidence:g}")
        for name, value in (("over_refusal", self.over_refusal), ("broken", self.broken)):
            if not 0 <= value <= 1:
                raise TuningError(
                    f"the limit on {name.replace('_', '-')} must lie between 0 and 100 %, not {value:.0%}"
                )

    def __str__(self) -> str:
        sure = f" (confidence {100 * self.confidence:g} %)" if self.confidence > 0.5 else ""
        return f"over-refusal at most {100 * self.over_refusal:g} points, broken at most {100 * self.broken:g} %{sure}"


@dataclass(frozen=True)
class Point:
    """A setting and what was measured of it."""

    setting: Setting
    measured: Measured


def pareto_front(points: Sequence[T], goals: Callable[[T], tuple[float, float]]) -> list[T]:
    """The points that no other is better than in one goal and as good in the other; cheapest second goal first.

    Both goals are minimised. Of points that are equal in both the first is kept.
    """
    best = float("inf")
    front = []
    for point in sorted(points, key=lambda p: (goals(p)[1], goals(p)[0])):
        if goals(point)[0] < best:
            best = goals(point)[0]
            front.append(point)
    return front


def goals(point: Point) -> tuple[float, float]:
    """ASR, and what usefulness pays."""
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
    """An upper bound of a rate; the rate itself where steering adds nothing: no setting could do better."""
    return measured.value if measured.value <= undefended.value else _bound(measured, confidence)


def _bound(measured: Estimate, confidence: float) -> float:
    # n of independent outcomes, which clusters make fewer: Wilson's equation at an end of the interval, solved for n
    end = measured.high if measured.value <= 0.5 else measured.low
    n = Z95**2 * end * (1 - end) / (end - measured.value) ** 2
    return upper_bound(measured.value, n, confidence)


def unproven(measured: Measured, undefended: Measured, limits: Limits) -> list[str]:
    """Limits that a measurement keeps by adding nothing, and that so few requests could not show to be kept."""
    notes = []
    for name, rate, plain, limit, sign, unit in (
        ("over-refusal", measured.over_refusal, undefended.over_refusal, limits.over_refusal, "+", " points"),
        ("broken answers", measured.broken, undefended.broken, limits.broken, "", " %"),
    ):
        most = _bound(rate, limits.confidence) - (plain.value if sign else 0.0)
        if rate.value <= plain.value and most > limit + _ROUNDING:
            notes.append(
                f"{name}: {rate} is no more than undefended, and so within any limit; of so few requests it may yet be "
                f"up to {100 * most:{sign}.1f}{unit} (confidence {100 * limits.confidence:g} %), beyond the "
                f"{100 * limit:g} allowed: give more pairs"
            )
    return notes


def choose(points: Sequence[Point], undefended: Measured, limits: Limits) -> Point:
    """The point with the lowest ASR within the limits; of equals the one that costs least, then the weakest.

    Raises:
        TuningError: none keeps to the limits and lowers the ASR; says how near the nearest comes.

    """
    kept = [point for point in points if keeps(point.measured, undefended, limits)]
    better = [point for point in kept if point.measured.asr.value < undefended.asr.value - _ROUNDING]
    if better:
        return min(better, key=lambda p: (*goals(p), p.setting.alpha))
    if kept:
        raise TuningError(
            f"no setting of {len(points)} measured lowers the ASR of {undefended.asr} with {limits}; "
            f"{_nearest(points, undefended, limits)}; allow more, or calibrate on other pairs"
        )
    raise TuningError(
        f"no setting of {len(points)} measured keeps {limits}; {_nearest(points, undefended, limits)}; "
        "allow more, or search longer"
    )


def _nearest(points: Sequence[Point], undefended: Measured, limits: Limits) -> str:
    lowering = [p for p in points if p.measured.asr.value < undefended.asr.value - _ROUNDING]
    if not lowering:
        return "none lowers it at all"
    point = min(
        lowering, key=lambda p: (sum(max(0.0, over) for over in _excess(p.measured, undefended, limits)), *goals(p))
    )
    over, broken = point.measured.over_refusal, point.measured.broken
    plain = undefended.over_refusal.value

    def told(measured: Estimate, before: Estimate, shown: Callable[[float], str]) -> str:
        most = _at_most(measured, limits.confidence, before)
        sure = f" (at most {shown(most)} with {100 * limits.confidence:g} % confidence)"
        return shown(measured.value) + (sure if most > measured.value + _ROUNDING else "")

    return (
        f"the nearest is {point.setting}: ASR {100 * point.measured.asr.value:.1f} %, over-refusal "
        f"{told(over, undefended.over_refusal, lambda value: f'{100 * (value - plain):+.1f} points')}, "
        f"broken {told(broken, undefended.broken, lambda value: f'{100 * value:.1f} %')}"
    )


def next_on_front(costs: Sequence[float], within: dict[int, bool], guess: int, budget: int) -> int | None:
    """Which point of a front to measure next.

    Points lie in the order of their estimated cost, so that the limits are kept up to some point and broken after it.
    The estimates say roughly where; from there steps that double, and then a bisection, find it with few measurements,
    and what is left of the budget goes to its neighbours, since rates over a few dozen requests jump, and to the widest
    gaps, to draw the whole front.

    Args:
        costs: the estimated cost of each, ascending.
        within: of those that were measured, whether the limits were kept.
        guess: where the estimates say that the limits end.
        budget: how many may still be measured.

    Returns:
        an index, or None when all are measured or the budget is spent.

    """
    left = [index for index in range(len(costs)) if index not in within]
    if not left or budget <= 0:
        return None
    low = max((index for index, kept in within.items() if kept), default=-1)
    high = min((index for index, kept in within.items() if not kept and index > low), default=len(costs))
    if guess not in within and low < guess < high:
        return guess
    between = [index for index in left if low < index < high]
    if between and high == len(costs):  # nothing has failed: halving the rest would measure what breaks everything
        return min(2 * low - guess + 1, high - 1)
    if between:
        return between[(len(between) - 1) // 2]
    if len(within) % 3 == 2:
        return max(left, key=lambda index: min(abs(costs[index] - costs[seen]) for seen in within))
    return min(left, key=lambda index: (abs(index - low - 0.5), index))
