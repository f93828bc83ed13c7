"""Usefulness, scored from 1 to 10 in both orders: AIR-Bench's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sarsteer.judges.base import JudgedAnswer, Verdict
from sarsteer.stats.estimate import Estimate, Score
from sarsteer.stats.means import mean
from sarsteer.stats.rates import rate

SCALE = (1.0, 10.0)
DIFFERENCES = (-9.0, 9.0)
ORDERS = (("reference_first", "answer_second"), ("answer_first", "reference_second"))


@dataclass(frozen=True)
class Scores:
    """Means over items; None if no item has such a score.

    Attributes:
        answer_first, answer_second: the model's score when the judge read its answer first, or second.
        reference_first, reference_second: the reference's.
        answer, reference: the mean of both orders, over items whose scores could be read in both.
        position_bias: how much more a text scores when it is read first, over the same items.
        unreadable: share of the judge's replies, two per item, that could not be read.
        answer_change: difference of ``answer`` from no defense, over items that were read in both orders under both.

    """

    answer_first: Score | None
    answer_second: Score | None
    reference_first: Score | None
    reference_second: Score | None
    answer: Score | None
    reference: Score | None
    position_bias: Score | None
    unreadable: Estimate
    answer_change: Score | None = None


_MEANS = tuple(name for name in Scores.__dataclass_fields__ if name not in ("unreadable", "answer_change"))


def summarize_scores(
    verdicts: Sequence[Verdict],
    items: Sequence[JudgedAnswer],
    undefended: Sequence[Verdict] | None = None,
) -> Scores:
    """The means of the scores from ``air-bench``.

    Args:
        verdicts: on the answers.
        items: what was judged, in the same order.
        undefended: verdicts on the undefended answers to the same items.

    Raises:
        ValueError: there are no items, the numbers of items and verdicts differ, or a score is not from 1 to 10.

    """
    if not items or len(verdicts) != len(items):
        raise ValueError(f"{len(verdicts)} verdicts for {len(items)} items; pass one for each, in the same order")
    rows = [_both_orders(verdict) for verdict in verdicts]
    if undefended is not None:
        for row, plain in zip(rows, map(_both_orders, undefended), strict=True):
            if "answer" in row and "answer" in plain:
                row["answer_change"] = row["answer"] - plain["answer"]
    clusters = [("own", i) if item.cluster is None else ("named", item.cluster) for i, item in enumerate(items)]

    def over_items(name: str) -> Score | None:
        known = [i for i, row in enumerate(rows) if name in row]
        limits = DIFFERENCES if name in ("position_bias", "answer_change") else SCALE
        return mean([rows[i][name] for i in known], [clusters[i] for i in known], limits=limits) if known else None

    unreadable = [order[0] not in row for row in rows for order in ORDERS]
    return Scores(
        **{name: over_items(name) for name in _MEANS},
        unreadable=rate(unreadable, [cluster for cluster in clusters for _ in ORDERS]),
        answer_change=over_items("answer_change"),
    )


def _both_orders(verdict: Verdict) -> dict[str, float]:
    """The scores of a verdict, and what follows from both orders if both could be read."""
    row = dict(verdict.scores or {})
    if all(name in row for order in ORDERS for name in order):
        row["answer"] = (row["answer_first"] + row["answer_second"]) / 2
        row["reference"] = (row["reference_first"] + row["reference_second"]) / 2
        first = row["answer_first"] + row["reference_first"]
        row["position_bias"] = (first - row["answer_second"] - row["reference_second"]) / 2
    return row
