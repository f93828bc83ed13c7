"""The report's tables for a README or a page of documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sarsteer.evaluation.metrics import Estimate
from sarsteer.evaluation.report.markdown import plain
from sarsteer.evaluation.report.numbers import NOTHING, interval, percent
from sarsteer.reproduction.curves import LINES
from sarsteer.reproduction.plan import Plan
from sarsteer.reproduction.published import SECOND_HAND

if TYPE_CHECKING:
    from sarsteer.reproduction.report import OfModel, Part

COLUMNS = (
    ("asr", "ASR ↓"),
    ("rr_harmful", "RR harmful ↑"),
    ("rr_safe", "RR safe ↓"),
    ("brr", "BRR ↑"),
    ("broken", "broken ↓"),
)


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
    counts = {row.arm.summary.asr.n for row in part.block.rows if row.arm.summary.asr is not None}
    heads = [f"defense{f' (n = {counts.pop()} harmful)' if len(counts) == 1 else ''}", *(title for _, title in COLUMNS)]
    heads += ["published ASR", "published BRR"] if part.compared else []
    rows = []
    for row, told in zip(part.block.rows, part.published, strict=True):
        leads = {cell.metric.key for cell in row.cells if cell.leads}
        cells = [_number(getattr(row.arm.summary, key), key in leads) for key, _ in COLUMNS]
        if part.compared:
            cells += [NOTHING if told is None or value is None else f"*{value:.1f}*" for value in
                      (told.asr if told else None, told.brr if told else None)]  # fmt: skip
        rows.append([plain(row.arm.defense), *cells])
    return _rows(heads, rows)


def _at(value: float, standard: float) -> str:
    return f"{value:g} (paper)" if value == standard else f"{value:g}"


def _number(estimate: Estimate | None, leads: bool = False) -> str:
    if estimate is None:
        return NOTHING
    value = f"**{percent(estimate.value)}**" if leads else percent(estimate.value)
    return f"{value} {interval(estimate)}"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
