"""What the tabs beside the answers show: a report, and a steering file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from sarsteer.evaluation.results import Evaluation
from sarsteer.report.html import html_page
from sarsteer.report.layer_chart import norm_chart, strength_chart
from sarsteer.report.redaction import sensitive
from sarsteer.report.svg import tag
from sarsteer.steering.description import facts
from sarsteer.steering.diagnostics import LayerReport, findings
from sarsteer.steering.gate.report import best_by_layer, stated
from sarsteer.studio.choice import Artifact
from sarsteer.studio.panels import figure, page


def report_view(results: Path) -> str:
    """The report of an evaluation, in a frame that can reach neither the studio nor the network.

    Clips are left out: results may name any path of this machine.

    Raises:
        SarsteerError: the file has no results.

    """
    evaluation = Evaluation.load(results)
    text = html_page(evaluation, results.parent, embed_audio=False)
    hidden = sensitive(evaluation)
    warning = f"{hidden} answers below complied with harmful requests, or may have. " if hidden else ""
    note = tag("p", f"{warning}Clips are left out here; sarsteer report puts them into a page.", class_="soft")
    frame = tag("iframe", srcdoc=text, sandbox="allow-scripts", title="Report of an evaluation", class_="report")
    return page(note, frame)


def artifact_view(artifact: Artifact) -> str:
    """What ``sarsteer show`` prints."""
    steering = artifact.steering
    strength = steering.resolve()
    reports = steering.report()
    rows = [asdict(report) for report in reports]
    charts = [
        figure(caption, chart)
        for caption, chart in (
            ("Norms of the vectors and of the activations", norm_chart(rows)),
            ("Strength, α‖v‖ / median ‖h‖ (%)", strength_chart(rows)),
        )
        if chart is not None
    ]
    about = [
        tag("div", tag("dt", name), tag("dd", text))
        for name, text in (("file", artifact.name), *facts(steering, strength))
    ]
    notes = [tag("p", text, class_="notice warning") for text in findings(reports)]
    return page(
        tag("dl", *about, class_="facts"),
        *notes,
        tag("div", *charts, class_="panels"),
        _layers(reports),
        *_gate(artifact),
    )


def _layers(reports: list[LayerReport]) -> Markup:
    columns = ("layer", "‖r‖", "‖v‖", "kept", "α‖v‖/‖h‖", "explained")
    body = [
        (
            str(row.layer),
            f"{row.refusal_norm:.3g}",
            f"{row.vector_norm:.3g}",
            f"{row.kept:.0%}",
            f"{row.relative_strength:.3f}",
            f"{row.explained:.0%}",
        )
        for row in reports
    ]
    return _table("Layers", columns, body)


def _gate(artifact: Artifact) -> list[Markup]:
    gate = artifact.steering.gate
    if gate is None:
        return []
    rows = [
        (str(layer), f"{auroc:.3f} ± {error:.3f}", method, "yes" if layer in gate.layers else "")
        for layer, method, auroc, error in best_by_layer(gate)
    ]
    lines = [tag("p", line, class_="soft") for line in stated(gate)]
    return [
        *([_table("Gate, cross-validated", ("layer", "AUROC", "best detector", "chosen"), rows)] if rows else []),
        *lines,
    ]


def _table(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> Markup:
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in columns)))
    body = tag(
        "tbody", *(tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    )
    table = tag("table", head, body, class_="plain")
    inner = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=title)
    return tag("details", tag("summary", title), inner)
