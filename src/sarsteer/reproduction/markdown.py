"""The tables of the report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from sarsteer.report import numbers
from sarsteer.report.markdown import plain
from sarsteer.report.numbers import NOTHING
from sarsteer.reproduction.model_report import ModelReport, ReportedTable
from sarsteer.reproduction.plan import Plan
from sarsteer.reproduction.published import DIFFERENCES
from sarsteer.reproduction.setting_chart import LINES
from sarsteer.stats.estimate import Estimate


def markdown(models: Sequence[ModelReport], plan: Plan) -> str:
    """Every table with intervals and n; reported figures have separate columns, and their source is named."""
    lines = ["In %, with 95 % intervals in brackets. Bold: the best of its column, if its interval overlaps no other."]
    if plan.setup.limit:
        lines += ["", f"**Only the first {plan.setup.limit} requests of each benchmark: a quick check, not a result.**"]
    for model in models:
        lines += ["", f"## {plain(model.checkpoint)}, judged by {plain(model.judge)}"]
        lines += ["", *(f"- {plain(note)}" for note in model.notes)] if model.notes else []
        if model.sources:
            lines += ["", f"*Reported* figures: {plain('; '.join(map(str, model.sources)))}. Note: {DIFFERENCES}."]
        for title, tables in (("Table", model.table), ("Ablation", model.ablation)):
            for table in tables:
                lines += ["", f"### {title}: {plain(table.block.benchmark)}", "", *_table(table)]
                lines += ["", *(f"- {plain(note)}" for _, note in table.block.notes)] if table.block.notes else []
        for curve in model.curves:
            heads = [curve.symbol, *(name for _, name, _ in LINES)]
            rows = [
                [_at(value, curve.standard), *(_number(getattr(summary, key)) for key, _, _ in LINES)]
                for value, summary in curve.points
            ]
            lines += ["", f"### {curve.symbol}, on {plain(model.benchmark)}", "", *_rows(heads, rows)]
    return "\n".join(lines) + "\n"


def _table(table: ReportedTable) -> list[str]:
    titles = [f"{metric.title} {metric.arrow}".strip() for metric in table.metrics]
    rows = []
    for number, row in enumerate(table.block.rows):
        cells = [
            _number(cell.estimate, cell.leads, cell.metric.change) for cell in row.cells if cell.metric in table.metrics
        ]
        reported = [NOTHING if values[number] is None else f"*{values[number]}*" for _, values in table.reported]
        rows.append([plain(row.arm.defense), *cells, *reported])
    return [_counts(table), "", *_rows(["defense", *titles, *(title for title, _ in table.reported)], rows)]


def _counts(table: ReportedTable) -> str:
    """The n of each column, above the table."""
    columns = zip(*(row.cells for row in table.block.rows), strict=True)
    texts = []
    for cells in columns:
        counts = {numbers.counted(cell.estimate) for cell in cells if cell.estimate is not None}
        if counts and cells[0].metric in table.metrics:
            texts.append(f"{cells[0].metric.title} {' or '.join(sorted(counts))}")
    return "; ".join(texts) + "."


def _at(value: float, standard: float) -> str:
    return f"{value:g} (paper)" if value == standard else f"{value:g}"


def _number(estimate: Estimate | None, leads: bool = False, change: bool = False) -> str:
    if estimate is None:
        return NOTHING
    number = numbers.value(estimate, change)
    return f"{f'**{number}**' if leads else number} {numbers.interval(estimate, change)}"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
