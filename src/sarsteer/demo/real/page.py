"""The demo's page: the report of its evaluation, with the demo's table and the choice of strengths on top."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from sarsteer.demo.next_steps import next_steps_section
from sarsteer.demo.real.run import RealDemo
from sarsteer.demo.real.table import COLUMNS, cells, strength
from sarsteer.files import write_text
from sarsteer.report.environment import environment
from sarsteer.report.html import Section, html_page


def write_page(result: RealDemo, path: Path) -> None:
    """Write the page. A failed write leaves no file."""
    templates = environment("sarsteer.demo.real")
    rows = [(arm, strength(arm), cells(arm)) for arm in result.arms]
    table = templates.get_template("table.html").render(rows=rows, columns=COLUMNS, word_errors=result.word_errors)
    chosen = {id(trial) for trial in result.tuned.chosen.values()}
    trials = [(trial, id(trial) in chosen) for trial in result.tuned.trials]
    strengths = templates.get_template("strengths.html").render(trials=trials, undefended=result.tuned.undefended)
    sections = (
        Section("summary", "The same held-out requests under each defense", Markup(table)),
        Section("strengths", "How the strengths were chosen", Markup(strengths)),
        next_steps_section(),
    )
    write_text(path, html_page(result.evaluation, path.parent, sections=sections, compress_audio=True))
