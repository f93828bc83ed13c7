"""``sarsteer demo``: the whole defense in one command, on the real model or on the toy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sarsteer.cli import demo_real, demo_toy, options
from sarsteer.cli.output import check_out, console, note, print_json, quiet_transformers
from sarsteer.errors import MissingExtraError, ModelError, SarsteerError

SMALL, TINY = ("small", "sarsteer-small"), ("tiny", "sarsteer-tiny")


def demo(
    model: Annotated[
        str | None,
        typer.Option(help="small, a real model, or tiny, a toy. Default: small, and tiny if small cannot be built."),
    ] = None,
    report: Annotated[Path, typer.Option("--report", help="HTML report to write.")] = Path("demo-report.html"),
    results: Annotated[Path, typer.Option("--results", help="Results to write, as JSON.")] = Path("demo-results.json"),
    limit: Annotated[
        int | None, typer.Option(help="Use at most this many requests of each kind, for a quick look.", min=10)
    ] = None,
    text: Annotated[
        bool,
        typer.Option("--text", help="Give the model the words instead of speech: the cost of misheard words."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Calibrate a model, answer held-out speech under several defenses, and write a report.

    small is sarsteer-small, a real model of 155 million parameters, calibrated with sarsteer-pairs; it takes several
    minutes. tiny is sarsteer-tiny, a toy that knows only a toy world, and takes one minute. The numbers of either say
    nothing about a large model.
    """
    if model is not None and model not in (*SMALL, *TINY):
        raise SarsteerError(f"unknown model {model!r}; use small or tiny")
    for option, given in (("--limit", limit is not None), ("--text", text)):
        if given and model in TINY:
            raise SarsteerError(f"{option} is for the small model; leave it out with --model tiny")
    check_out(report)
    check_out(results)
    quiet_transformers()
    if model in TINY:
        table = demo_toy.run_and_print(report, results, as_json)
    else:
        try:
            loaded = demo_real.load()
        except (ModelError, MissingExtraError) as error:
            if model is not None or text:  # the toy answers speech only
                raise
            note(f"the real model cannot be used, so the toy runs instead: {error}")
            table = demo_toy.run_and_print(report, results, as_json)
        else:
            table = demo_real.run_and_print(loaded, limit, text, report, results, as_json)
    if as_json:
        print_json({**table, "report": str(report), "results": str(results)})
        return
    console.print(f"\nReport with all answers, clips and charts: [bold]{report}[/]", highlight=False, soft_wrap=True)
    console.print(f"Results, for sarsteer report: [bold]{results}[/]", highlight=False, soft_wrap=True)
    print_next_steps()


def print_next_steps() -> None:
    """The commands for the user's own model."""
    from sarsteer.demo.next_steps import TITLE, next_steps

    console.print(f"\n[bold]{TITLE}[/]")
    for what, command in next_steps():
        console.print(f"[dim]{what}:[/]", highlight=False)
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
