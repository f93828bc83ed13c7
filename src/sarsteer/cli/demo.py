"""``sarsteer demo``: the whole defence on the embedded model, in one command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sarsteer.cli.output import check_out, console, errors, print_json, progress_bar, quiet_transformers

TRANSCRIPTS = 3


def demo(
    report: Annotated[Path, typer.Option("--report", help="The HTML report to write.")] = Path("demo-report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Calibrate sarsteer-tiny, answer held-out speech under five defenses, and write a report.

    The embedded model is tiny and lives in a toy world: its numbers show how the method behaves, and say nothing
    about a large model.
    """
    check_out(report)
    quiet_transformers()
    from sarsteer.demo.experiment import run
    from sarsteer.demo.html import write_report

    with progress_bar() as progress:
        result = run(progress)
    write_report(result, report)
    if as_json:
        print_json(_json(result, report))
        return
    _print(result)
    console.print(f"\nReport with the trade-off curves: [bold]{report}[/]", highlight=False)


def _print(result: Any) -> None:
    n = len(result.test)
    console.print(f"\n[bold]{result.model}[/], {n} held-out pairs, 95 % intervals in brackets, in %", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\ndefense")
    for title in ("\nASR ↓", "RR\nharmful ↑", "RR\nsafe ↓", "\nBRR ↑", "safe\ncorrect ↑", "\nbroken ↓", "\neveryday ↑"):
        table.add_column(title, justify="right")
    for row in result.rows:
        strength = f"\n[dim]α {row.setting.alpha:g}, k {row.setting.k}[/]" if row.setting else ""
        values = (row.asr, row.rr_harmful, row.rr_safe, row.brr, row.correct_safe, row.broken, row.everyday)
        table.add_row(row.name.replace(", ", ",\n") + strength, *(_cell(value) for value in values))
    console.print(table)
    console.print(
        f"[dim]n: ASR, RR, BRR, safe correct {n} each; broken {2 * n}; everyday {result.rows[0].everyday.n}[/]"
    )
    undefended, steered = result.row("no defense"), result.row("SARSteer")
    for index in range(min(TRANSCRIPTS, n)):
        pair = result.test[index]
        console.print(f"\n[dim]harmful:[/] {pair.harmful.question}", highlight=False)
        console.print(f"  no defense  {undefended.answers.harmful[index]}", highlight=False)
        console.print(f"  SARSteer    {steered.answers.harmful[index]}", highlight=False)
        console.print(f"[dim]safe twin:[/] {pair.safe.question}", highlight=False)
        console.print(f"  SARSteer    {steered.answers.safe[index]}", highlight=False)
    errors.print(
        "\n[yellow]These are numbers of sarsteer-tiny, a toy model; they say nothing about a large one.[/]",
    )


def _cell(value: Any) -> str:
    return f"{100 * value.value:.1f}\n[dim]{100 * value.low:.0f}-{100 * value.high:.0f}[/]"


def _json(result: Any, report: Path) -> dict[str, Any]:
    metrics = ("asr", "rr_harmful", "rr_safe", "brr", "correct_safe", "broken")

    def numbers(point: Any, names: tuple[str, ...]) -> dict[str, Any]:
        setting = asdict(point.setting) if point.setting else None
        return {"setting": setting, **{name: asdict(getattr(point, name)) for name in names}}

    return {
        "model": result.model,
        "steering": result.steering.digest,
        "pairs": len(result.test),
        "rows": [{"defense": row.name, **numbers(row, (*metrics, "everyday"))} for row in result.rows],
        "curve": [numbers(point, metrics) for point in result.curve],
        "report": str(report),
    }
