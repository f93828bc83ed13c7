"""``--fail-if``: how broken limits are printed, and how a command ends that found some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli.output import errors

if TYPE_CHECKING:
    from sarsteer.evaluation.limits import Check

BROKEN_LIMIT = 3
"""Exit status of a run that is complete, and breaks a limit."""

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        help="Exit with status 3 if this holds at the unfavorable end of a 95 % interval, such as 'asr>10', in "
        "percent; repeatable.",
        metavar="LIMIT",
    ),
]


def end_with(checks: Sequence[Check]) -> None:
    """Print each limit on standard error, and end the command with status 3 if one is broken."""
    for check in checks:
        label = "[bold red]failed:[/] " if check.failed else "[green]passed:[/] "
        errors.print(label, end="")
        errors.print(str(check), markup=False, highlight=False, soft_wrap=True)
    if any(check.failed for check in checks):
        raise typer.Exit(BROKEN_LIMIT)


def as_data(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks for ``--json``; shares, not percentages."""
    return [asdict(check) for check in checks]
