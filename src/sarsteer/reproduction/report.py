"""The report of a plan: an HTML page with charts, and the tables as Markdown."""

from __future__ import annotations

from pathlib import Path

from sarsteer.files import write_text
from sarsteer.report.environment import environment
from sarsteer.report.style import page_style
from sarsteer.reproduction.markdown import markdown
from sarsteer.reproduction.model_report import model_reports
from sarsteer.reproduction.plan import Plan, results_of
from sarsteer.reproduction.published import DIFFERENCES
from sarsteer.reproduction.setting_chart import LINES

PAGE, TABLES = "reproduction.html", "reproduction.md"


def write_report(plan: Plan, out: Path) -> tuple[Path, Path]:
    """Write the page and the Markdown tables of all finished steps."""
    models = model_reports(plan, out)
    text = (
        environment("sarsteer.reproduction")
        .get_template("reproduction.html")
        .render(
            models=models,
            setup=plan.setup,
            lines=LINES,
            sources=list(dict.fromkeys(source for model in models for source in model.sources)),
            differences=DIFFERENCES,
            complete=all(results_of(step, out).is_file() for step in plan.steps),
            style=page_style(),
        )
    )
    page, tables = out / PAGE, out / TABLES
    write_text(page, text)
    write_text(tables, markdown(models, plan))
    return page, tables
