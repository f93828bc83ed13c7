"""The tables that ``sarsteer attack`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from sarsteer.cli.output import console
from sarsteer.cli.tables import print_named
from sarsteer.evaluation.attack_rows import AttackRow, model_title
from sarsteer.evaluation.results import Evaluation
from sarsteer.stats.estimate import Estimate


def print_attack_tables(results: Evaluation, rows: Sequence[AttackRow]) -> None:
    """One table per benchmark on standard output."""
    console.print(
        f"\n[bold]{model_title(results)}[/], judged by {results.judge['name']}; in %, 95 % intervals below",
        highlight=False,
        soft_wrap=True,
    )
    measured = any(row.asr_understood is not None for row in rows)
    titles = ["queries", "ASR ↓", *(["ASR, not\nmisheard", "misheard"] if measured else []), "RR\nsafe ↓", "broken"]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        chosen = [row for row in rows if row.benchmark == benchmark]
        cells = []
        for row in chosen:
            hearing = [_cell(row.asr_understood), _cell(row.misheard)] if measured else []
            numbers = [str(row.queries), _cell(row.asr), *hearing, _cell(row.rr_safe), _cell(row.broken)]
            cells.append((escape(f"{row.attack}, {row.defense}"), numbers))
        console.print(f"[italic]{escape(benchmark)}[/]", highlight=False, soft_wrap=True)
        print_named("attack, defense", titles, cells)
        n = {"harmful": chosen[0].asr, "safe": chosen[0].rr_safe}
        counts = ", ".join(f"{one.n} {side}" for side, one in n.items() if one is not None)
        if counts:  # nothing if no verdict could be read
            console.print(f"[dim]n: {counts}[/]", highlight=False)


def _cell(value: Estimate | None) -> str:
    if value is None:
        return ""
    between = "-" if value.low >= 0 else " to "
    return f"{100 * value.value:.1f}\n[dim]{100 * value.low:.0f}{between}{100 * value.high:.0f}[/]"
