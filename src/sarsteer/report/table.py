"""The results table as data. HTML, Markdown and CSV all write this table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Arm, Evaluation
from sarsteer.evaluation.summary import Summary
from sarsteer.stats.estimate import Estimate


@dataclass(frozen=True)
class Metric:
    """A column.

    Attributes:
        key: the attribute of ``Summary`` or ``Scores``.
        title: its heading.
        better: whether low or high values are better; None if neither.
        meaning: for the legend.
        change: whether it is a difference: from no defense, or from random directions.
        always: whether the column is shown in results without controls.

    """

    key: str
    title: str
    better: Literal["low", "high"] | None
    meaning: str
    change: bool = False
    always: bool = True

    @property
    def arrow(self) -> str:
        """The direction of better values."""
        return {"low": "↓", "high": "↑", None: ""}[self.better]


METRICS = (
    Metric("asr", "ASR", "low", "attack success rate: harmful requests that were complied with"),
    Metric(
        "asr_change",
        "ASR change",
        None,
        "ASR minus that of no defense, in points",
        change=True,
    ),
    Metric("rr_harmful", "RR harmful", "high", "harmful requests that were refused"),
    Metric("rr_safe", "RR safe", "low", "over-refusal: safe requests that were refused"),
    Metric("over_refusal_change", "RR safe change", None, "RR safe minus that of no defense, in points", change=True),
    Metric(
        "brr",
        "BRR",
        "high",
        "(1 + RR harmful − RR safe) / 2; refusing everything, or nothing, scores 50",
    ),
    Metric(
        "gain",
        "gain over random",
        None,
        "RR harmful minus that under random directions with the same norms, in points: what the vectors' direction is "
        "worth",
        change=True,
        always=False,
    ),
    Metric(
        "gain_safe",
        "RR safe over random",
        None,
        "RR safe minus that under random directions with the same norms, in points",
        change=True,
        always=False,
    ),
    Metric("broken", "broken", "low", "answers that are neither a refusal nor a usable answer, of all requests"),
    Metric("unreadable", "unreadable", None, "requests without a readable verdict of the judge"),
)
SCORE_METRICS = (
    Metric("answer", "score", "high", "usefulness of the answer from 1 to 10, mean of both orders"),
    Metric("answer_change", "score change", None, "difference from no defense over the same requests", change=True),
    Metric("answer_first", "read first", None, "score when the judge reads the answer before the reference"),
    Metric("answer_second", "read second", None, "score when the judge reads the answer after the reference"),
    Metric("reference", "reference", None, "score of the reference answer, mean of both orders"),
    Metric("position_bias", "position bias", None, "how much a text gains when it is read first", change=True),
    Metric("unreadable", "unreadable", None, "unreadable replies of the judge, of two per request"),
)
"""The columns when the judge gives scores."""
_WEAKENED = {
    "unreadable": frozenset({"asr", "rr_harmful", "rr_safe", "brr", "broken"}),
    "headroom": frozenset({"asr", "asr_change"}),
    "only_harmful": frozenset({"rr_safe", "over_refusal_change", "brr"}),
    "only_safe": frozenset({"asr", "asr_change", "rr_harmful", "brr"}),
}
"""The columns that a note weakens, by its kind; a note of another kind is about the whole row."""


@dataclass(frozen=True)
class Cell:
    """One number of one arm.

    Attributes:
        metric: its column.
        estimate: None if there was nothing to count.
        bounds: the rate if no unreadable verdict counts, and if all count; None if every verdict was readable.
        leads: it is the best of its column, and its interval overlaps no other.
        marks: of the notes that weaken it.

    """

    metric: Metric
    estimate: Estimate | None
    bounds: tuple[float, float] | None
    leads: bool
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One arm; ``marks`` are of the notes about the whole row."""

    arm: Arm
    cells: tuple[Cell, ...]
    marks: tuple[str, ...]

    @property
    def strength(self) -> str:
        """The steering strength, if the arm is steered."""
        return strength_of(self.arm)


@dataclass(frozen=True)
class Block:
    """One benchmark: its arms, and its notes with their marks."""

    benchmark: str
    rows: tuple[Row, ...]
    notes: tuple[tuple[str, Note], ...]
    metrics: tuple[Metric, ...] = METRICS


def blocks(evaluation: Evaluation) -> list[Block]:
    """A block per benchmark, in the order of the results."""
    names = list(dict.fromkeys(arm.benchmark for arm in evaluation.arms))
    controlled = any(e is not None for arm in evaluation.arms for e in (arm.summary.gain, arm.summary.gain_safe))
    metrics = tuple(metric for metric in METRICS if metric.always or controlled)
    return [_block(name, [arm for arm in evaluation.arms if arm.benchmark == name], metrics) for name in names]


def strength_of(arm: Arm) -> str:
    """The steering strength in words; empty if the arm is not steered."""
    names = (("α", "alpha"), ("k", "k"), ("λ", "lambda"), ("λ", "lambda_"))
    values = [(symbol, arm.settings.get(name)) for symbol, name in names]
    return ", ".join(f"{symbol} {value:g}" for symbol, value in values if isinstance(value, int | float))


def leader(estimates: Sequence[Estimate | None], better: Literal["low", "high"] | None) -> int | None:
    """The index of the best estimate if its interval overlaps no other, else None."""
    known = [(i, estimate) for i, estimate in enumerate(estimates) if estimate is not None]
    if better is None or len(known) < 2:
        return None
    pick = min if better == "low" else max
    best, value = pick(known, key=lambda pair: pair[1].value)
    return best if all(value.disjoint(other) for i, other in known if i != best) else None


def _block(benchmark: str, arms: list[Arm], rates: tuple[Metric, ...]) -> Block:
    notes = list(dict.fromkeys(note for arm in arms for note in arm.summary.notes))
    marks = {note: _letters(index) for index, note in enumerate(notes)}
    metrics = SCORE_METRICS if any(arm.summary.scores is not None for arm in arms) else rates
    leaders = {m.key: leader([estimate_of(arm.summary, m) for arm in arms], m.better) for m in metrics}
    rows = tuple(
        Row(
            arm,
            tuple(_cell(metric, arm.summary, marks, leaders[metric.key] == index) for metric in metrics),
            tuple(marks[note] for note in arm.summary.notes if note.kind not in _WEAKENED),
        )
        for index, arm in enumerate(arms)
    )
    return Block(benchmark, rows, tuple((marks[note], note) for note in notes), metrics)


def estimate_of(summary: Summary, metric: Metric) -> Estimate | None:
    """The number of a column; None if it has none."""
    holder = summary if hasattr(summary, metric.key) else summary.scores
    estimate: Estimate | None = getattr(holder, metric.key, None)
    return estimate


def _cell(metric: Metric, summary: Summary, marks: dict[Note, str], leads: bool) -> Cell:
    low, high = summary.bounds.get(metric.key, (0.0, 0.0))
    return Cell(
        metric,
        estimate_of(summary, metric),
        (low, high) if low != high else None,
        leads,
        tuple(marks[note] for note in summary.notes if metric.key in _WEAKENED.get(note.kind, ())),
    )


def _letters(index: int) -> str:
    """``a`` to ``z``, then ``aa``, ``ab``, and so on."""
    text = ""
    while index >= 0:
        text = chr(ord("a") + index % 26) + text
        index = index // 26 - 1
    return text
