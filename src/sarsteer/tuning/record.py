"""What the artifact remembers of its search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

from sarsteer.judges import Judge
from sarsteer.steering.artifact import Steering
from sarsteer.tuning.front import Point
from sarsteer.tuning.measure import Measured

if TYPE_CHECKING:
    from sarsteer.tuning.run import Candidate, Options, Tuned


def recorded(tuned: Tuned, options: Options, judge: Judge, calibrating: int, tuning: int) -> Steering:
    """The artifact with the chosen setting as its default, and the search in ``metadata["tuning"]``."""
    import optuna

    told: dict[str, Any] = {
        "limits": asdict(options.limits),
        "pairs": {"calibrating": calibrating, "tuning": tuning},
        "judge": judge.signature,
        "seed": options.seed,
        "layers": options.layers,
        "gate": options.gate,
        "trials": len(tuned.candidates),
        "generations": len(tuned.points),
        "optuna": optuna.__version__,
        "undefended": rates(tuned.undefended),
        "chosen": _point(tuned.chosen),
        "front": [_point(point) for point in tuned.front],
        "speed": speed(tuned),
        "notes": list(tuned.notes),
    }
    steering = tuned.chosen.setting.defaults_of(tuned.steering)
    return replace(steering, metadata={**steering.metadata, "tuning": told})


def rates(measured: Measured) -> dict[str, Any]:
    """Each rate with its n and interval."""
    return {name: asdict(getattr(measured, name)) for name in ("asr", "refused", "over_refusal", "broken")}


def speed(tuned: Tuned) -> dict[str, Any]:
    """Seconds by surrogate and by generation, what the surrogate saved, and how far it can be trusted."""
    generation = mean(point.measured.seconds for point in tuned.points)
    told: dict[str, Any] = {"generation_seconds_each": round(generation, 3)}
    if tuned.candidates:
        each = mean(candidate.seconds for candidate in tuned.candidates)
        told |= {
            "surrogate_seconds_each": round(each, 3),
            "times_faster": round(generation / each, 1) if each else None,
            "rank_correlation": rank_correlations(tuned.candidates, tuned.points),
        }
    return told


def rank_correlations(candidates: Sequence[Candidate], points: Sequence[Point]) -> dict[str, float | None]:
    """Spearman's between estimates and measurements, over the settings that have both; None where one is constant."""
    import numpy as np

    scores = {candidate.setting: candidate.scores for candidate in candidates}
    both = [(scores[point.setting], point.measured) for point in points if point.setting in scores]
    found: dict[str, float | None] = {}
    for name in ("asr", "over_refusal", "broken"):
        first = [getattr(estimate, name) for estimate, _ in both]
        second = [getattr(measured, name).value for _, measured in both]
        if len(set(first)) < 2 or len(set(second)) < 2:
            found[name] = None
            continue
        found[name] = round(float(np.corrcoef(_ranks(first), _ranks(second))[0, 1]), 3)
    return found


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks, equal values sharing their mean one."""
    return [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]


def _point(point: Point) -> dict[str, Any]:
    return {"setting": point.setting.to_json(), **rates(point.measured)}
