"""Whether live requests still score as the requests did that the gate's threshold was set on.

A stated error rate holds for requests that are exchangeable with those. Live scores tell when they no longer are: by
the share of requests that the gate would steer, with its interval, and by the two-sample Kolmogorov-Smirnov test of the
scores. Neither needs labels. Harmful requests are part of live traffic: a rising share is a reason to look, not a proof
that safe requests are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.conformal import ALL
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.reference import reference_of

MIN_REQUESTS = 30
"""Fewer live requests say too little: with none above the threshold, the interval still reaches 11 %."""
SIGNIFICANT = 0.01
NOTABLE = 0.1
"""Largest difference between the two distribution functions that is ignored, however significant it is: in much traffic
every difference is."""

Verdict = Literal["no drift", "drift", "too few requests"]


@dataclass(frozen=True)
class Share:
    """A share of n requests, with Wilson's 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Share:
        """The share of true values."""
        from scipy.stats import binomtest

        test = binomtest(sum(hits), len(hits))
        interval = test.proportion_ci(method="wilson")
        return cls(float(test.statistic), float(interval.low), float(interval.high), len(hits))

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class DriftReport:
    """Live scores beside those of the gate's reference requests.

    Attributes:
        verdict: ``"drift"`` if there are ``reasons``.
        reasons: what differs, in words.
        requests, reference: numbers of live and of reference requests.
        source: where the reference scores come from.
        above: share of live requests above the threshold.
        expected: the stated rate, or the share of reference requests above the threshold.
        out_of_distribution: share of live requests beyond the distance limit; None if no distance was logged.
        statistic, p_value: of the Kolmogorov-Smirnov test.
        medians: of live and reference scores.

    """

    verdict: Verdict
    reasons: tuple[str, ...]
    requests: int
    reference: int
    source: str
    above: Share
    expected: float
    out_of_distribution: Share | None
    statistic: float
    p_value: float
    medians: tuple[float, float]


def drift(
    gate: Gate, scores: Sequence[float], distances: Sequence[float | None] | None = None, group: str = ALL
) -> DriftReport:
    """Compare live scores with those that the threshold was set on.

    Args:
        gate: with the scores of its calibration, or of ``sarsteer threshold``.
        scores: of live requests, in any mode, also shadow mode; NaN counts as infinite.
        distances: of the same requests, if they were logged.
        group: compare with the reference requests of this group only, such as ``"everyday"``.

    Raises:
        SteeringError: there are no live scores, or the gate stores none.

    """
    from scipy.stats import ks_2samp

    if not len(scores):
        raise SteeringError("there are no live scores to compare; log some requests first")
    reference = reference_of(gate, group)
    live = np.asarray([math.inf if math.isnan(score) else score for score in scores], float)
    base = np.asarray(reference.scores, float)
    test = ks_2samp(live, base)
    above = Share.of((live > gate.threshold).tolist())
    expected = reference.max_refused
    if expected is None:
        expected = float((base > gate.threshold).mean())
    known = [distance for distance in distances or [] if distance is not None]
    beyond = Share.of([not distance <= gate.limit for distance in known]) if known and gate.limit is not None else None
    reasons = []
    if above.low > expected:
        reasons.append(f"{above} of live requests are above the threshold; {100 * expected:.1f} % were expected")
    if test.pvalue < SIGNIFICANT and test.statistic > NOTABLE:
        lower = float(np.median(live)) < float(np.median(base))
        reasons.append(f"live scores are {'lower' if lower else 'higher'} or spread otherwise than the reference's")
    if beyond is not None and beyond.low > reference.beyond:
        reasons.append(
            f"{beyond} of live requests are beyond the distance limit; {100 * reference.beyond:.1f} % were expected"
        )
    verdict: Verdict = "drift" if reasons else "no drift"
    if len(live) < MIN_REQUESTS:
        verdict, reasons = "too few requests", [f"{len(live)} requests; at least {MIN_REQUESTS} are needed"]
    return DriftReport(
        verdict=verdict,
        reasons=tuple(reasons),
        requests=len(live),
        reference=len(base),
        source=reference.source,
        above=above,
        expected=expected,
        out_of_distribution=beyond,
        statistic=float(test.statistic),
        p_value=float(test.pvalue),
        medians=(float(np.median(live)), float(np.median(base))),
    )
