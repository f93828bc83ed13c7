"""The display of a running ``sarsteer tune``: progress bars and a chart of the front, or plain lines in a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from sarsteer.cli.output import errors

if TYPE_CHECKING:
    from sarsteer.tuning.front import Candidate, Limits, MeasuredPoint
    from sarsteer.tuning.measure import Measured
    from sarsteer.tuning.options import TuningObserver

WIDTH, HEIGHT = 56, 14
Mark = tuple[float, float, str, str]
"""Cost and ASR, both in [0, 1], a character and its style. Later marks are drawn over earlier ones."""


@contextmanager
def screen(limits: Limits) -> Iterator[TuningObserver]:
    """An observer that draws on standard error if it is a terminal, and otherwise writes lines to it."""
    if not errors.is_terminal:
        yield _lines(limits)
        return
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from sarsteer.tuning.options import TuningObserver

    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=errors
    )
    stages: dict[str, Any] = {}
    marks: dict[str, list[Mark]] = {"candidates": [], "points": []}
    with Live(bars, console=errors, refresh_per_second=4, transient=True) as live:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        def redraw() -> None:
            live.update(Group(bars, chart([*marks["candidates"], *marks["points"]])))

        def candidates(scored: list[Candidate]) -> None:
            marks["candidates"] = _candidate_marks(scored)
            redraw()

        def points(measured: list[MeasuredPoint], undefended: Measured) -> None:
            marks["points"] = _point_marks(measured, undefended)
            redraw()

        yield TuningObserver(report, candidates, points)


def _lines(limits: Limits) -> TuningObserver:
    """One line for each quarter of a stage and for each measured configuration."""
    from sarsteer.tuning.front import keeps
    from sarsteer.tuning.options import MEASURING, TuningObserver

    quarters: dict[str, int] = {}
    printed = 0

    def line(text: str) -> None:
        errors.print(text, highlight=False, soft_wrap=True, markup=False)

    def report(stage: str, done: int, total: int) -> None:
        quarter = 0 if stage == MEASURING else 4 * done // max(total, 1)  # each measurement has its line
        if quarter > quarters.get(stage, -1):
            quarters[stage] = quarter
            line(f"{stage}: {done} of {total}")

    def points(measured: list[MeasuredPoint], undefended: Measured) -> None:
        nonlocal printed
        for number, point in enumerate(measured[printed:], printed + 1):
            rates = point.measured
            place = "within" if keeps(rates, undefended, limits) else "beyond"
            line(
                f"measured {number}: {point.configuration}: ASR {100 * rates.asr.value:.1f} %, over-refusal "
                f"{100 * rates.over_refusal.value:.1f} %, broken {100 * rates.broken.value:.1f} %, {place} the limits"
            )
        printed = len(measured)

    return TuningObserver(report=report, points=points)


def front_chart(points: Sequence[MeasuredPoint], undefended: Measured, chosen: MeasuredPoint) -> Text:
    """All measured points, with the chosen one marked."""
    marks = _point_marks(points, undefended)
    marks.append((chosen.measured.cost, chosen.measured.asr.value, "★", "bold green"))
    return chart(marks, "◇ no defense  · measured  ● on the front  ★ chosen")


def _candidate_marks(candidates: Sequence[Candidate]) -> list[Mark]:
    from sarsteer.tuning.front import pareto_front

    front = pareto_front(candidates, lambda c: (c.scores.asr, c.scores.cost))
    return [(c.scores.cost, c.scores.asr, "·", "dim") for c in candidates] + [
        (c.scores.cost, c.scores.asr, "○", "cyan") for c in front
    ]


def _point_marks(points: Sequence[MeasuredPoint], undefended: Measured) -> list[Mark]:
    from sarsteer.tuning.front import goals, pareto_front

    marks: list[Mark] = [(undefended.cost, undefended.asr.value, "◇", "red")]
    marks += [(p.measured.cost, p.measured.asr.value, "·", "default") for p in points]
    return marks + [(p.measured.cost, p.measured.asr.value, "●", "yellow") for p in pareto_front(points, goals)]


def chart(marks: Sequence[Mark], legend: str = "· estimated or measured  ○ estimated front  ● measured front") -> Text:
    """A chart in characters: ASR from 0 to 100 % upwards, the cost in usefulness from 0 to 50 % to the right."""
    grid = [[(" ", "")] * WIDTH for _ in range(HEIGHT)]
    for cost, asr, character, style in marks:
        column = min(WIDTH - 1, round(min(cost, 0.5) / 0.5 * (WIDTH - 1)))
        row = HEIGHT - 1 - min(HEIGHT - 1, round(asr * (HEIGHT - 1)))
        grid[row][column] = (character, style)
    text = Text("ASR\n", style="dim")
    for number, line in enumerate(grid):
        edge = {0: "100 %", HEIGHT - 1: "  0 %"}.get(number, "     ")
        text.append(f"{edge} │", "dim")
        for character, style in line:
            text.append(character, style)
        text.append("\n")
    text.append("      └" + "─" * WIDTH + "\n", "dim")
    text.append("       0 %" + "over-refused or broken".center(WIDTH - 10) + "≥ 50 %\n", "dim")
    text.append(legend, "dim")
    return text
