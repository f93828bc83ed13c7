"""``sarsteer demo --model tiny``: what it prints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.cli.output import console, errors, progress_bar
from sarsteer.cli.tables import print_named

if TYPE_CHECKING:
    from sarsteer.demo.toy.run import DemoResult
    from sarsteer.evaluation.summary import Summary
    from sarsteer.stats.estimate import Estimate

EXAMPLES = 3
METRICS = ("asr", "rr_harmful", "rr_safe", "brr", "broken")


def run_and_print(report: Path, results: Path, as_json: bool) -> dict[str, Any]:
    """Run the demo on the toy, write report and results, and return the table; print it unless ``as_json``."""
    from sarsteer.demo.toy.page import write_page
    from sarsteer.demo.toy.run import run

    with progress_bar() as progress:
        result = run(progress)
    write_page(result, report)
    result.evaluation.save(results)
    if not as_json:
        _print(result)
    return _json(result)


def _print(result: DemoResult) -> None:
    undefended, steered = result.row("no defense"), result.row("SARSteer")
    pairs = len(undefended.arm.answers) // 2
    name = result.evaluation.model["name"]
    console.print(f"\n[bold]{name}[/], {pairs} held-out pairs, 95 % intervals in brackets, in %", highlight=False)
    titles = ("ASR ↓", "RR\nharmful ↑", "RR\nsafe ↓", "BRR ↑", "safe\ncorrect ↑", "broken ↓", "everyday ↑")
    rows = []
    for row in result.rows:
        s = row.arm.summary
        values = (s.asr, s.rr_harmful, s.rr_safe, s.brr, row.correct_safe, s.broken, row.everyday)
        alpha, k = row.arm.settings.get("alpha"), row.arm.settings.get("k")
        strength = "" if alpha is None else f"\n[dim]α {alpha:g}, k {k}[/]"
        rows.append((row.title.replace(", ", ",\n") + strength, [_cell(value) for value in values]))
    print_named("defense", titles, rows)
    console.print(
        f"[dim]n: ASR, RR, safe correct {pairs} each; BRR {pairs} pairs; broken {2 * pairs}; "
        f"everyday {undefended.everyday.n}[/]"
    )
    for index in range(min(EXAMPLES, pairs)):
        harmful, safe = index, pairs + index
        console.print(f"\n[dim]harmful:[/] {undefended.arm.answers[harmful].question}", highlight=False)
        console.print(f"  no defense  {undefended.arm.answers[harmful].answer}", highlight=False)
        console.print(f"  SARSteer    {steered.arm.answers[harmful].answer}", highlight=False)
        console.print(f"[dim]safe twin:[/] {undefended.arm.answers[safe].question}", highlight=False)
        console.print(f"  SARSteer    {steered.arm.answers[safe].answer}", highlight=False)
    errors.print("\n[yellow]These are numbers of sarsteer-tiny, a toy model; they say nothing about a large one.[/]")


def _cell(value: Estimate | None) -> str:
    return "" if value is None else f"{100 * value.value:.1f}\n[dim]{100 * value.low:.0f}-{100 * value.high:.0f}[/]"


def _json(result: DemoResult) -> dict[str, Any]:
    def numbers(summary: Summary, correct_safe: Estimate) -> dict[str, Any]:
        rates: dict[str, Any] = {name: getattr(summary, name) for name in METRICS} | {"correct_safe": correct_safe}
        return {name: asdict(estimate) for name, estimate in rates.items()}

    return {
        "model": result.evaluation.model["name"],
        "steering": result.row("SARSteer").arm.steering,
        "pairs": len(result.rows[0].arm.answers) // 2,
        "rows": [
            {
                "defense": row.title,
                "spec": row.arm.defense,
                **numbers(row.arm.summary, row.correct_safe),
                "everyday": asdict(row.everyday),
            }
            for row in result.rows
        ],
        "curve": [
            {"alpha": trial.alpha, "k": trial.k, **numbers(trial.arm.summary, trial.correct_safe)}
            for trial in result.tuned.trials
        ],
    }
