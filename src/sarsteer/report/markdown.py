"""The table as Markdown, for a README."""

from __future__ import annotations

from sarsteer.evaluation.results import Evaluation
from sarsteer.report.numbers import NOTHING, counted, interval, percent, value
from sarsteer.report.table import Block, Cell, blocks

BOLD = "Bold: the best of its column, if its interval overlaps no other interval. Overlapping intervals do not rank."
_SPECIAL = str.maketrans({sign: "\\" + sign for sign in "\\`*_[]<>|#~$"} | {"\n": " ", "\r": " ", "&": "&amp;"})


def markdown(evaluation: Evaluation) -> str:
    """A table per benchmark; every number has its interval and n."""
    lines = [f"Model {plain(evaluation.model.get('name', 'not recorded'))}, "]
    lines[0] += f"judged by {plain(evaluation.judge.get('name', 'not recorded'))}. In %, with 95 % intervals."
    if not evaluation.arms:
        lines += ["", "There are no results."]
    for block in blocks(evaluation):
        lines += ["", f"### {plain(block.benchmark)}", "", *_table(block)]
        lines += ["", *(f"- {mark}: {plain(note)}" for mark, note in block.notes)] if block.notes else []
    lines += ["", BOLD]
    lines += ["", *(f"- {plain(note)}" for note in evaluation.notes)] if evaluation.notes else []
    return "\n".join(lines) + "\n"


def plain(value: object) -> str:
    """``value`` escaped, so that Markdown shows it unchanged."""
    return str(value).translate(_SPECIAL)


def _table(block: Block) -> list[str]:
    heads = ["defense", *(f"{metric.title} {metric.arrow}".strip() for metric in block.metrics)]
    rows = [
        [f"{plain(row.arm.defense)}{_marked(row.marks)}", *(_cell(cell) for cell in row.cells)] for row in block.rows
    ]
    return [_line(heads), _line(["---", *("---:" for _ in block.metrics)]), *map(_line, rows)]


def _cell(cell: Cell) -> str:
    e = cell.estimate
    if e is None:
        return NOTHING + _marked(cell.marks)
    number = value(e, cell.metric.change)
    bound = "" if cell.bounds is None else f", bounds {percent(cell.bounds[0])}–{percent(cell.bounds[1])}"
    bold = f"**{number}**" if cell.leads else number
    return f"{bold} {interval(e, cell.metric.change)} {counted(e)}{bound}{_marked(cell.marks)}"


def _marked(marks: tuple[str, ...]) -> str:
    return f" ({', '.join(marks)})" if marks else ""


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
