"""The demo's page: the report of its evaluation, with the demo's table on top."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from sarsteer.demo.next_steps import next_steps_section
from sarsteer.demo.toy.run import TUNING_PAIRS, DemoResult
from sarsteer.demo.toy.tuning import MAX_LOST
from sarsteer.files import write_text
from sarsteer.report.environment import environment
from sarsteer.report.html import Section, html_page
from sarsteer.report.table import strength_of


def write_page(result: DemoResult, path: Path) -> None:
    """Write the page. A failed write leaves no file."""
    template = environment("sarsteer.demo.toy").get_template("table.html")
    rows = [(row, strength_of(row.arm)) for row in result.rows]
    table = template.render(rows=rows, tuning_pairs=TUNING_PAIRS, max_lost=MAX_LOST)
    section = Section("summary", "Five defenses, the same held-out speech", Markup(table))
    write_text(path, html_page(result.evaluation, path.parent, sections=(section, next_steps_section())))
