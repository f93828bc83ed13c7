"""``sarsteer drift``: whether live requests still score as those that the gate's threshold was set on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sarsteer.cli import options
from sarsteer.cli.output import console, print_json

DRIFT = 3
"""Exit code if there is drift, so that a job can raise an alarm."""


def drift(
    file: Annotated[Path, typer.Argument(help="Steering file with a gate.")],
    scores: Annotated[Path, typer.Argument(help="Log of decisions (JSON Lines), in any mode.")],
    group: Annotated[
        str, typer.Option(help="Compare with the calibration clips of this group only, such as everyday.")
    ] = "all",
    as_json: options.Json = False,
) -> None:
    """Compare the scores of live requests with those that the gate's threshold was set on.

    Exits with 3 if they differ. Live traffic contains harmful requests: look at what drifted before you act.
    """
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.gate.drift import drift as compare
    from sarsteer.steering.gate.log import read_scores

    gate = Steering.load(file).choose_gate(True)
    assert gate is not None
    rows = read_scores(scores)
    report = compare(gate, [row.score for row in rows], [row.distance for row in rows], group)
    if as_json:
        print_json(asdict(report))
    else:
        table = Table.grid(padding=(0, 2))
        for name, value in (
            ("live requests", str(report.requests)),
            ("compared with", report.source),
            ("above the threshold", f"{report.above}, expected {100 * report.expected:.1f} %"),
            (
                "beyond the limit",
                "not logged" if report.out_of_distribution is None else str(report.out_of_distribution),
            ),
            ("median score", f"{report.medians[0]:.2f} live, {report.medians[1]:.2f} reference"),
            ("Kolmogorov-Smirnov", f"D = {report.statistic:.2f}, p = {report.p_value:.2g}"),
            ("verdict", f"[bold]{report.verdict}[/]"),
        ):
            table.add_row(f"[dim]{name}[/]", value)
        console.print(table, highlight=False)
        for reason in report.reasons:
            console.print(f"- {reason}", highlight=False, markup=False)
    if report.verdict == "drift":
        raise typer.Exit(DRIFT)
