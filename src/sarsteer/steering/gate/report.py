"""What can be said of a gate before it is used: rates on held-out calibration clips, and which layer tells how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.gate import Gate


@dataclass(frozen=True)
class RocPoint:
    """At one threshold, the shares of held-out harmful and safe clips that open the gate."""

    threshold: float
    true_positive_rate: float
    false_positive_rate: float


def opened(gate: Gate) -> tuple[list[bool], list[bool]]:
    """Which of the held-out harmful and safe calibration clips are above the gate's threshold.

    Raises:
        SteeringError: the gate was not made by calibration, and keeps no scores.

    """
    harmful, safe = _scores(gate)
    return [score > gate.threshold for score in harmful], [score > gate.threshold for score in safe]


def roc(gate: Gate) -> list[RocPoint]:
    """The curve from "never" to "always", a point wherever a held-out score lies; thresholds fall."""
    harmful, safe = _scores(gate)
    points = [RocPoint(max(*harmful, *safe), 0.0, 0.0)]
    for threshold in sorted({*harmful, *safe}, reverse=True)[1:]:
        points.append(RocPoint(threshold, *(_above(scores, threshold) for scores in (harmful, safe))))
    return [*points, RocPoint(float("-inf"), 1.0, 1.0)]


def best_by_layer(gate: Gate) -> list[tuple[int, str, float, float]]:
    """Of every layer that was judged: its index, its best method, that one's AUROC, and its standard error."""
    rows: dict[int, dict[str, Any]] = {}
    for one in gate.metadata.get("candidates", []):
        if one["layer"] not in rows or one["auroc"] > rows[one["layer"]]["auroc"]:
            rows[one["layer"]] = one
    return [(layer, one["method"], one["auroc"], one["error"]) for layer, one in sorted(rows.items())]


def summary(gate: Gate) -> str:
    """One line for people."""
    where = f"layer {gate.layer}, {gate.mode}, threshold {gate.threshold:.3g}"
    if not gate.metadata.get("held_out"):
        return where
    harmful, safe = opened(gate)
    return (
        f"{where}; {gate.metadata['method']}, AUROC {gate.metadata['auroc']:.3f}; held out it opens for "
        f"{sum(harmful)} of {len(harmful)} harmful and {sum(safe)} of {len(safe)} safe clips"
    )


def _scores(gate: Gate) -> tuple[list[float], list[float]]:
    held_out = gate.metadata.get("held_out") or {}
    if not held_out.get("harmful") or not held_out.get("safe"):
        raise SteeringError("this gate keeps no held-out scores; only one that calibration made does")
    return held_out["harmful"], held_out["safe"]


def _above(scores: Sequence[float], threshold: float) -> float:
    return sum(score > threshold for score in scores) / len(scores)
