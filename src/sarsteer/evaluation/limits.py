"""Limits that a run must keep, such as ``asr>10``: for continuous integration, where a number must stop a change."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sarsteer.errors import EvaluationError, did_you_mean
from sarsteer.evaluation.results import Arm, Evaluation
from sarsteer.stats.estimate import Estimate

METRICS = {
    "asr": "asr",
    "over_refusal": "rr_safe",
    "rr_harmful": "rr_harmful",
    "rr_safe": "rr_safe",
    "brr": "brr",
    "broken": "broken",
    "unreadable": "unreadable",
    "asr_change": "asr_change",
    "over_refusal_change": "over_refusal_change",
    "gain": "gain",
}
"""Names in limits, and the fields of ``Summary`` that they mean."""

_FORM = re.compile(r"\s*([^<>=\s]*)\s*([<>])\s*([^<>=%\s]+)\s*(%?)\s*")


@dataclass(frozen=True)
class Limit:
    """A rule that fails a run.

    Attributes:
        metric: its name.
        above: fail above ``value``, so that the upper end of the interval counts; otherwise below it, and the lower.
        value: as a share, or a difference of shares.

    """

    metric: str
    above: bool
    value: float

    def __str__(self) -> str:
        return f"{self.metric}{'>' if self.above else '<'}{100 * self.value:g}"

    def broken_by(self, low: float, high: float) -> bool:
        """Whether the unfavorable end of an interval is beyond the limit."""
        return high > self.value if self.above else low < self.value

    @classmethod
    def parse(cls, text: str, metrics: Collection[str] = tuple(METRICS), *, lowest: float = 0) -> Limit:
        """Read ``METRIC>PERCENT`` or ``METRIC<PERCENT``.

        Args:
            text: from the command line.
            metrics: the names that exist.
            lowest: the smallest percentage that is possible: -100 for differences, also of metrics named ``_change``.

        Raises:
            EvaluationError: the form is wrong, the metric is unknown, or the limit could never fail.

        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise EvaluationError(f"--fail-if takes METRIC>PERCENT or METRIC<PERCENT, such as 'asr>10', not {text!r}")
        metric, sign, digits, unit = found.groups()
        if metric not in metrics:
            names = ", ".join(metrics)
            raise EvaluationError(
                f"--fail-if {text!r}: unknown metric {metric!r}; use one of {names}{did_you_mean(metric, metrics)}"
            )
        try:
            percent = float(digits)
        except ValueError:
            percent = math.nan
        if not math.isfinite(percent):
            raise EvaluationError(f"--fail-if {text!r}: {digits!r} is not a number; give a percentage, as in 'asr>10'")
        if 0 < abs(percent) < 1 and not unit:
            whole = f"{metric}{sign}{100 * percent:g}"
            raise EvaluationError(
                f"--fail-if {text!r}: limits are in percent; write {whole!r}, or '{metric}{sign}{digits}%' if you mean "
                f"{digits} %"
            )
        above = sign == ">"
        if metric.endswith("_change") or metric == "gain":
            lowest = -100
        if percent >= 100 if above else percent <= lowest:
            raise EvaluationError(f"--fail-if {text!r} could never fail; give a limit between {lowest:g} and 100")
        if percent < lowest or percent > 100:
            raise EvaluationError(f"--fail-if {text!r} would always fail; give a limit between {lowest:g} and 100")
        return cls(metric, above, percent / 100)


@dataclass(frozen=True)
class Check:
    """A limit at one arm.

    Attributes:
        limit: as text.
        benchmark, defense: the arm.
        value: the measured share; None if no verdict could be read.
        low, high: what is compared with the limit.
        failed: whether the limit is not kept.
        difference: whether the numbers are differences of two runs.

    """

    limit: str
    benchmark: str
    defense: str
    value: float | None
    low: float
    high: float
    failed: bool
    difference: bool = False

    def __str__(self) -> str:
        start = f"{self.limit}: {self.benchmark} under {self.defense}"
        if self.value is None:
            measured = "has nothing readable"
        elif self.difference:
            measured = f"changed by {100 * self.value:+.1f} points"
        else:
            measured = f"has {100 * self.value:.1f} %"
        return f"{start} {measured} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def check_limits(results: Evaluation, limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Every limit at every arm that has its metric.

    Arms without a defense and controls are left out, unless the run has nothing else. Unreadable verdicts count
    against the run: the ends are those of the interval, or of the bounds (``Summary.bounds``) if these are further out.

    Raises:
        EvaluationError: no arm has the metric, so that the limit would check nothing.

    """
    arms = [arm for arm in results.arms if not is_undefended(arm) and arm.control_of is None]
    checks = []
    for limit in limits:
        found = [check for arm in arms or results.arms if (check := _check(arm, limit)) is not None]
        if not found:
            raise EvaluationError(f"--fail-if {str(limit)!r} checks nothing: no arm has {limit.metric}; {_why(limit)}")
        checks += found
    return tuple(checks)


def is_undefended(arm: Arm) -> bool:
    """Whether an arm has no defense."""
    return arm.defense == "none" or arm.settings.get("kind") == "none"


def _check(arm: Arm, limit: Limit) -> Check | None:
    name = METRICS[limit.metric]
    estimate: Estimate | None = getattr(arm.summary, name)
    bounds = arm.summary.bounds.get(name)
    if estimate is None and bounds is None:
        return None
    ends = [bounds] if bounds is not None else []
    if estimate is not None:
        ends.append((estimate.low, estimate.high))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    value = None if estimate is None else estimate.value
    return Check(str(limit), arm.benchmark, arm.defense, value, low, high, limit.broken_by(low, high))


def _why(limit: Limit) -> str:
    if limit.metric == "gain":
        return "it needs a steered defense and its random control"
    if limit.metric.endswith("_change"):
        return "it needs --defense none beside another defense"
    side = {"asr": "harmful", "rr_harmful": "harmful", "over_refusal": "safe", "rr_safe": "safe"}.get(limit.metric)
    return "add a benchmark that does" if side is None else f"add a benchmark with {side} requests"
