"""The result of a search, and what the steering file stores about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import mean
from typing import Any

from sarsteer.judges import Judge
from sarsteer.steering.artifact import Steering
from sarsteer.tuning.front import Candidate, MeasuredPoint, goals, pareto_front
from sarsteer.tuning.measure import Measured
from sarsteer.tuning.options import TuningOptions


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes:
        steering: calibrated on all pairs; the chosen configuration is its default, and ``metadata["tuning"]`` has the
            search.
        chosen: the chosen configuration, and its rates on the tuning pairs.
        points: everything measured by generation; the starting points first.
        undefended: the same requests without a defense.
        candidates: everything that the surrogate scored; empty if it was not used.
        notes: for the reader of the result.

    """

    steering: Steering = field(repr=False)
    chosen: MeasuredPoint
    points: tuple[MeasuredPoint, ...]
    undefended: Measured
    candidates: tuple[Candidate, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def front(self) -> list[MeasuredPoint]:
        """The Pareto front of the measured points."""
        return pareto_front(self.points, goals)

    def recorded(self, options: TuningOptions, judge: Judge, calibration_pairs: int, tuning_pairs: int) -> Tuned:
        """The same result, with the chosen configuration and the search stored in its steering."""
        import optuna

        record: dict[str, Any] = {
            "limits": asdict(options.limits),
            "pairs": {"calibrating": calibration_pairs, "tuning": tuning_pairs},
            "judge": judge.signature,
            "seed": options.seed,
            "search": options.search.to_json(),
            "trials": len(self.candidates),
            "generations": len(self.points),
            "optuna": optuna.__version__,
            "undefended": rates(self.undefended),
            "chosen": _point(self.chosen),
            "front": [_point(point) for point in self.front],
            "speed": speed(self.candidates, self.points),
            "notes": list(self.notes),
        }
        steering = self.chosen.configuration.as_defaults(self.steering)
        return replace(self, steering=replace(steering, metadata={**steering.metadata, "tuning": record}))


def rates(measured: Measured) -> dict[str, Any]:
    """Each rate with its n and interval, as JSON."""
    return {name: asdict(getattr(measured, name)) for name in ("asr", "refused", "over_refusal", "broken")}


def speed(candidates: Sequence[Candidate], points: Sequence[MeasuredPoint]) -> dict[str, Any]:
    """Seconds per configuration by generation and by the surrogate, and how well the estimates rank configurations."""
    generation = mean(point.measured.seconds for point in points)
    values: dict[str, Any] = {"generation_seconds_each": round(generation, 3)}
    if candidates:
        surrogate = mean(candidate.seconds for candidate in candidates)
        values |= {
            "surrogate_seconds_each": round(surrogate, 3),
            "times_faster": round(generation / surrogate, 1) if surrogate else None,
            "rank_correlation": rank_correlations(candidates, points),
        }
    return values


def rank_correlations(candidates: Sequence[Candidate], points: Sequence[MeasuredPoint]) -> dict[str, float | None]:
    """Spearman's correlation of estimates and measurements for configurations with both; None if one is constant."""
    import numpy as np

    scores = {candidate.configuration: candidate.scores for candidate in candidates}
    both = [(scores[point.configuration], point.measured) for point in points if point.configuration in scores]
    correlations: dict[str, float | None] = {}
    for name in ("asr", "over_refusal", "broken"):
        estimated = [getattr(estimate, name) for estimate, _ in both]
        measured = [getattr(measurement, name).value for _, measurement in both]
        if len(set(estimated)) < 2 or len(set(measured)) < 2:
            correlations[name] = None
            continue
        correlations[name] = round(float(np.corrcoef(_ranks(estimated), _ranks(measured))[0, 1]), 3)
    return correlations


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks; equal values get their mean rank."""
    return [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]


def _point(point: MeasuredPoint) -> dict[str, Any]:
    return {"setting": point.configuration.to_json(), **rates(point.measured)}
