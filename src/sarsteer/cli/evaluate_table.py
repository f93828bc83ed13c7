"""The tables that ``sarsteer evaluate`` prints."""

from __future__ import annotations

from rich.markup import escape

from sarsteer.cli.output import console, note
from sarsteer.cli.tables import print_named
from sarsteer.evaluation.results import Evaluation
from sarsteer.evaluation.summary import Summary
from sarsteer.stats.estimate import Estimate, Score

RATES = {
    "asr": "ASR ↓",
    "rr_harmful": "RR\nharmful ↑",
    "rr_safe": "RR\nsafe ↓",
    "brr": "BRR ↑",
    "gain": "gain over\nrandom",
    "broken": "broken ↓",
    "unreadable": "unread-\nable",
}
SCORES = {
    "answer": "score ↑",
    "answer_change": "change",
    "answer_first": "read\nfirst",
    "answer_second": "read\nsecond",
    "reference": "reference",
    "position_bias": "position\nbias",
    "unreadable": "unread-\nable",
}


def print_tables(results: Evaluation) -> None:
    """One table per benchmark on standard output; notes on standard error."""
    console.print(
        f"\n[bold]{results.model['name']}[/], judged by {results.judge['name']}; in %, 95 % intervals below",
        highlight=False,
        soft_wrap=True,
    )
    for benchmark in dict.fromkeys(arm.benchmark for arm in results.arms):
        rows = [(arm.defense, arm.summary) for arm in results.arms if arm.benchmark == benchmark]
        rows += [(f"{p.defense}, α {p.alpha:g}", p.summary) for p in results.curve if p.benchmark == benchmark]
        _print_table(benchmark, rows)
        console.print(f"[dim]n: {_counts(rows[0][1])}[/]", highlight=False)
        for text in dict.fromkeys(str(one) for _, summary in rows for one in summary.notes):
            note(f"{benchmark}: {text}")
    for one in results.notes:
        note(str(one))


def _print_table(benchmark: str, rows: list[tuple[str, Summary]]) -> None:
    columns = RATES if all(summary.scores is None for _, summary in rows) else SCORES
    if all(summary.gain is None for _, summary in rows):
        columns = {name: title for name, title in columns.items() if name != "gain"}
    cells = []
    for defense, summary in rows:
        numbers = summary if summary.scores is None else summary.scores
        cells.append((escape(defense), [_cell(getattr(numbers, column, None)) for column in columns]))
    console.print(f"[italic]{escape(benchmark)}[/]", highlight=False, soft_wrap=True)
    print_named("defense", list(columns.values()), cells)


def _counts(summary: Summary) -> str:
    if summary.scores is not None:
        read = summary.scores.answer
        return f"{0 if read is None else read.n} read in both orders; scores from 1 to 10"
    sides = {"harmful": summary.asr, "safe": summary.rr_safe}
    return ", ".join(f"{estimate.n} {side}" for side, estimate in sides.items() if estimate is not None)


def _cell(value: Estimate | Score | None) -> str:
    if value is None:
        return ""
    if isinstance(value, Score):
        return f"{value.value:.2f}\n[dim]{value.low:.2f}-{value.high:.2f}[/]"
    between = "-" if value.low >= 0 else " to "
    return f"{100 * value.value:.1f}\n[dim]{100 * value.low:.0f}{between}{100 * value.high:.0f}[/]"
