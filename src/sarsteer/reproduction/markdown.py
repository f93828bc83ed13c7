"""The report's tables for a README or a page of documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sarsteer.report import numbers
from sarsteer.report.markdown import plain
from sarsteer.report.numbers import NOTHING
from sarsteer.reproduction.curves import LINES
from sarsteer.reproduction.plan import Plan
from sarsteer.reproduction.published import SECOND_HAND
from sarsteer.stats.estimate import Estimate

if TYPE_CHECKING:
    from sarsteer.reproduction.report import OfModel, Part


def markdown(models: Sequence[OfModel], plan: Plan) -> str:
    """Every table, with intervals and n; published figures in columns of their own."""
    lines = ["In %, with 95 % intervals in brackets. Bold: the best, where its interval meets no other's."]
    if plan.setup.limit:
        lines += ["", f"**The first {plan.setup.limit} requests of each benchmark only: a quick look, no result.**"]
    if any(part.compared for model in models for part in model.table):
        lines += ["", f"*Published*: {SECOND_HAND}."]
    for model in models:
        lines += ["", f"## {plain(model.checkpoint)}, judged by {plain(model.judge)}"]
        lines += ["", *(f"- {plain(note)}" for note in model.notes)] if model.notes else []
        for title, parts in (("Table", model.table), ("Ablation", model.ablation)):
            for part in parts:
                lines += ["", f"### {title}: {plain(part.block.benchmark)}", "", *_table(part)]
                lines += ["", *(f"- {plain(note)}" for _, note in part.block.notes)] if part.block.notes else []
        for line in model.lines:
            heads = [line.sign, *(name for _, name, _ in LINES)]
            rows = [
                [_at(value, line.standard), *(_number(getattr(summary, key)) for key, _, _ in LINES)]
                for value, summary in line.points
            ]
            lines += ["", f"### {line.sign}, on {plain(model.benchmark)}", "", *_rows(heads, rows)]
    return "\n".join(lines) + "\n"


def _table(part: Part) -> list[str]:
    titles = [f"{metric.title} {metric.arrow}".strip() for metric in part.metrics]
    rows = []
    for number, row in enumerate(part.block.rows):
        cells = [_number(cell.estimate, cell.leads) for cell in row.cells if not cell.metric.change]
        told = [NOTHING if values[number] is None else f"*{values[number]}*" for _, values in part.told]
        rows.append([plain(row.arm.defense), *cells, *told])
    return [_counted(part), "", *_rows(["defense", *titles, *(title for title, _ in part.told)], rows)]


def _counted(part: Part) -> str:
    """N of each column where all rows share it: else a table of intervals would have to hold it in every cell."""
    columns = zip(*(row.cells for row in part.block.rows), strict=True)
    told = []
    for cells in columns:
        counts = {numbers.counted(cell.estimate) for cell in cells if cell.estimate is not None}
        if counts and not cells[0].metric.change:
            told.append(f"{cells[0].metric.title} {' or '.join(sorted(counts))}")
    return "; ".join(told) + "."


def _at(value: float, standard: float) -> str:
    return f"{value:g} (paper)" if value == standard else f"{value:g}"


def _number(estimate: Estimate | None, leads: bool = False) -> str:
    if estimate is None:
        return NOTHING
    number = f"**{numbers.value(estimate)}**" if leads else numbers.value(estimate)
    return f"{number} {numbers.interval(estimate)}"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
