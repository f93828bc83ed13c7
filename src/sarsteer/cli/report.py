"""``sarsteer report``: write the results of an evaluation as a page, a table, or rows."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sarsteer.cli import options
from sarsteer.cli.output import check_out, console, note, print_json
from sarsteer.errors import SarsteerError

if TYPE_CHECKING:
    from sarsteer.evaluation.results import Evaluation


class Format(str, Enum):
    """The format of a report."""

    html = "html"
    markdown = "markdown"
    csv = "csv"
    json = "json"


_SUFFIXES = {
    ".html": Format.html,
    ".htm": Format.html,
    ".md": Format.markdown,
    ".markdown": Format.markdown,
    ".csv": Format.csv,
    ".json": Format.json,
}


def report(
    results: Annotated[Path, typer.Argument(help="Folder or results.json of sarsteer evaluate.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write. Default: next to RESULTS for HTML, else standard output."),
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Default: by the suffix of --out, else html.")] = None,
    answers: Annotated[bool, typer.Option("--answers", help="CSV: a row per answer instead of a row per arm.")] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Remove answers that complied with harmful requests, or may have.")
    ] = False,
    embed_audio: Annotated[bool, typer.Option(help="HTML: embed the clips in the page.")] = True,
    max_transcripts: Annotated[
        int, typer.Option(help="HTML: requests to show before 'Show more'. The page contains all.", min=1)
    ] = 20,
    as_json: options.Json = False,
) -> None:
    """Write a report of an evaluation: a self-contained HTML page, a Markdown table, CSV or JSON.

    The answers may contain harmful text. A page that contains such answers has a notice; --redact removes them.
    """
    from sarsteer.evaluation.results import Evaluation, results_file

    chosen = _format_of(out, form)
    results = results_file(results)
    if out is None and chosen is Format.html:
        out = results.with_suffix(".html")
    if answers and chosen is not Format.csv:
        raise SarsteerError(f"--answers goes with --format csv, not {chosen.value}; remove one of them")
    if as_json and out is None:
        raise SarsteerError("--json describes a file; name it with --out")
    if out is not None:
        check_out(out)
        if out.resolve() == results.resolve():
            raise SarsteerError("contains the results; name another file", place=str(out))
    from sarsteer.files import write_text
    from sarsteer.report.redaction import redacted, sensitive

    evaluation = Evaluation.load(results)
    if redact:
        evaluation = redacted(evaluation)
    text = _written(evaluation, chosen, results, answers, embed_audio, max_transcripts)
    exposed = sensitive(evaluation) if chosen in (Format.html, Format.json) or answers else 0
    if exposed:
        note(
            f"the report contains {exposed} answers that complied with harmful requests, or may have; "
            "--redact removes them"
        )
    if out is None:
        sys.stdout.write(text)
        return
    write_text(out, text)
    if as_json:
        print_json({"file": str(out), "format": chosen.value, "redacted": redact, "sensitive_answers": exposed})
    else:
        console.print(f"Report: [bold]{out}[/]", highlight=False, soft_wrap=True)


def _format_of(out: Path | None, form: Format | None) -> Format:
    """``form``, else the format that the suffix of ``out`` names."""
    suffix = "" if out is None else out.suffix.lower()
    if suffix == ".pdf":
        raise SarsteerError("reports are not PDF files; write .html and print it in a browser", place=str(out))
    if form is not None or out is None:
        return form or Format.html
    if suffix not in _SUFFIXES:
        kind = repr(suffix) if suffix else "a name without a suffix"
        raise SarsteerError(f"{kind} is not a report; use .html, .md, .csv or .json, or set --format", place=str(out))
    return _SUFFIXES[suffix]


def _written(
    evaluation: Evaluation, form: Format, results: Path, answers: bool, embed_audio: bool, max_transcripts: int
) -> str:
    if form is Format.html:
        from sarsteer.report.html import html_page

        return html_page(evaluation, results.parent, embed_audio, max_transcripts)
    if form is Format.markdown:
        from sarsteer.report.markdown import markdown

        return markdown(evaluation)
    if form is Format.csv:
        from sarsteer.report.spreadsheet import answers_csv, arms_csv

        return answers_csv(evaluation) if answers else arms_csv(evaluation)
    from sarsteer.evaluation.results import FORMAT_VERSION

    whole = {"format_version": FORMAT_VERSION, **asdict(evaluation)}
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"
