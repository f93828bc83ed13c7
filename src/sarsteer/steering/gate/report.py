"""What is known about a gate before it is used: rates on held-out calibration clips, and the AUROC of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.conformal import ALL
from sarsteer.steering.gate.gate import Gate


@dataclass(frozen=True)
class RocPoint:
    """The shares of held-out harmful and safe clips that open the gate at one threshold."""

    threshold: float
    true_positive_rate: float
    false_positive_rate: float


def opened(gate: Gate) -> tuple[list[bool], list[bool]]:
    """Which held-out harmful and safe calibration clips are above the gate's threshold.

    Raises:
        SteeringError: the gate does not come from calibration, and stores no scores.

    """
    harmful, safe = _scores(gate)
    return [score > gate.threshold for score in harmful], [score > gate.threshold for score in safe]


def roc(gate: Gate) -> list[RocPoint]:
    """The ROC curve from "never open" to "always open", one point per held-out score; thresholds decrease."""
    harmful, safe = _scores(gate)
    points = [RocPoint(max(*harmful, *safe), 0.0, 0.0)]
    for threshold in sorted({*harmful, *safe}, reverse=True)[1:]:
        points.append(RocPoint(threshold, *(_above(scores, threshold) for scores in (harmful, safe))))
    return [*points, RocPoint(float("-inf"), 1.0, 1.0)]


def best_by_layer(gate: Gate) -> list[tuple[int, str, float, float]]:
    """For every layer that was tried: its index, its best method, and that method's AUROC and standard error."""
    best: dict[int, dict[str, Any]] = {}
    for candidate in gate.metadata.get("candidates", []):
        layer = candidate["layer"]
        if layer not in best or candidate["auroc"] > best[layer]["auroc"]:
            best[layer] = candidate
    return [(layer, row["method"], row["auroc"], row["error"]) for layer, row in sorted(best.items())]


def summary(gate: Gate) -> str:
    """The gate in one line."""
    settings = f"{named_layers(gate)}, {gate.mode}, threshold {gate.threshold:.3g}"
    if not gate.metadata.get("held_out"):
        return settings
    harmful, safe = opened(gate)
    return (
        f"{settings}; {gate.metadata['method']}, AUROC {gate.metadata['auroc']:.3f}; opens for {sum(harmful)} of "
        f"{len(harmful)} harmful and {sum(safe)} of {len(safe)} safe held-out clips"
    )


def named_layers(gate: Gate) -> str:
    """``layer 6``, or ``layers 4, 5 and 6``."""
    *others, last = map(str, gate.layers)
    return f"layers {', '.join(others)} and {last}" if others else f"layer {last}"


def stated(gate: Gate) -> list[str]:
    """What the threshold was set for, one line for each rate."""
    traffic = gate.metadata.get("traffic")
    source = f"requests of {traffic['source']}" if traffic else "held-out safe clips of calibration, approximately"
    return [
        f"stated: at most {100 * rate.max_refused:g} % of safe requests"
        f"{'' if rate.group == ALL else f' of the group {rate.group}'} are refused, if they are like the "
        f"{rate.n} {source}"
        for rate in gate.stated
    ]


def refused_by_group(gate: Gate) -> list[tuple[str, str, int, int]]:
    """For every group of held-out clips: its label, its name, how many clips the gate steers, and how many there are.

    Clips beyond the distance limit are steered, too. Empty if calibration recorded no groups.
    """
    held_out = gate.metadata.get("held_out") or {}
    rows = []
    for label in ("harmful", "safe"):
        groups = held_out.get("groups", {}).get(label, [])
        distances = held_out.get("distances", {}).get(label, [])
        steered = [
            score > gate.threshold or (gate.limit is not None and not distance <= gate.limit)
            for score, distance in zip(held_out.get(label, []), distances, strict=False)
        ]
        for group in sorted(set(groups)):
            mine = [hit for hit, other in zip(steered, groups, strict=True) if other == group]
            rows.append((label, group, sum(mine), len(mine)))
    return rows


def _scores(gate: Gate) -> tuple[list[float], list[float]]:
    held_out = gate.metadata.get("held_out") or {}
    if not held_out.get("harmful") or not held_out.get("safe"):
        raise SteeringError("this gate stores no held-out scores; use one that calibration fitted")
    return held_out["harmful"], held_out["safe"]


def _above(scores: Sequence[float], threshold: float) -> float:
    return sum(score > threshold for score in scores) / len(scores)
