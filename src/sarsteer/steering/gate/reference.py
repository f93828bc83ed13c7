"""The safe requests that a gate's threshold was set on: those of calibration, or the user's own traffic."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from sarsteer.errors import SteeringError
from sarsteer.steering.gate.conformal import ALL, stated_rates
from sarsteer.steering.gate.gate import Gate

MOST_STORED = 2000
"""Most scores of traffic that a file stores; of more, evenly spaced ones in their order."""


@dataclass(frozen=True)
class Reference:
    """Scores of safe requests on which the gate was not fitted.

    Attributes:
        scores: infinite for requests beyond the distance limit.
        groups: what each request has in common with others; ``"all"`` if nothing is recorded.
        source: where they come from, in words.
        max_refused: the stated rate of all of them together; None if none is stated.

    """

    scores: tuple[float, ...]
    groups: tuple[str, ...]
    source: str
    max_refused: float | None

    @property
    def beyond(self) -> float:
        """The share of requests that are beyond the distance limit."""
        return sum(map(math.isinf, self.scores)) / len(self.scores)


def reference_of(gate: Gate, group: str = ALL) -> Reference:
    """The requests that ``gate``'s threshold was set on.

    Raises:
        SteeringError: the gate stores no scores, or none of this group.

    """
    traffic, held_out = gate.metadata.get("traffic"), gate.metadata.get("held_out") or {}
    if traffic:
        scores = [math.inf if score is None else score for score in traffic["scores"]]
        groups, source = traffic["groups"], f"{traffic['n']} requests of {traffic['source']}"
    elif held_out.get("safe"):
        scores, groups = gate.safe_scores()
        source = f"{len(scores)} held-out safe clips of calibration"
    else:
        raise SteeringError("this gate stores no scores to compare with; use one that calibration fitted")
    if group != ALL:
        kept = [score for score, other in zip(scores, groups, strict=True) if other == group]
        if not kept:
            raise SteeringError(f"the gate stores no scores of the group {group!r}; it has {', '.join(set(groups))}")
        scores, groups, source = kept, [group] * len(kept), f"{source}, group {group}"
    stated = [rate for rate in gate.stated if rate.group == group]
    return Reference(tuple(scores), tuple(groups), source, stated[0].max_refused if stated else None)


def with_traffic(
    gate: Gate,
    scores: Sequence[float],
    groups: Sequence[str] | None = None,
    max_refused: float | Mapping[str, float] = 0.01,
    *,
    requests: Sequence[Hashable] | None = None,
    source: str = "traffic",
) -> Gate:
    """The same gate with a threshold from the user's own safe traffic, at a stated rate.

    At most ``max_refused`` of new requests like these are refused; see ``conformal``. No harmful request is needed, and
    none must be among them: each raises the threshold.

    Args:
        gate: the gate; its detector does not change.
        scores: of safe requests; infinite or NaN for those beyond the distance limit.
        groups: the group of each request, for rates by group.
        max_refused: ε of all requests together, or of each group.
        requests: equal for clips of one request, as in several voices; by default all are different.
        source: where the requests come from, for reports.

    Raises:
        SteeringError: the requests are too few, too many are beyond the distance limit, or the threshold would open
            for no harmful clip of calibration.

    """
    groups = [ALL] * len(scores) if groups is None else list(groups)
    rates = stated_rates(scores, groups, max_refused, requests)
    kept = sorted(range(len(scores)), key=lambda index: scores[index])
    if len(kept) > MOST_STORED:
        kept = [kept[round(i * (len(kept) - 1) / (MOST_STORED - 1))] for i in range(MOST_STORED)]
    stored = [scores[index] if math.isfinite(scores[index]) else None for index in kept]  # JSON has no infinity
    traffic = {"source": source, "n": len(scores), "scores": stored, "groups": [groups[index] for index in kept]}
    return replace(gate, metadata={**gate.metadata, "traffic": traffic}).with_rates(rates)
