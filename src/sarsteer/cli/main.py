"""``sarsteer``: the commands. An expected error prints one line and exits with 2; ``--debug`` adds the traceback."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Annotated

import typer

from sarsteer import __version__
from sarsteer.cli import (
    calibrate,
    demo,
    doctor,
    evaluate,
    layers,
    models,
    pairs,
    report,
    reproduce,
    respond,
    serve,
    show,
    speak,
    tune,
)
from sarsteer.cli.output import fail
from sarsteer.errors import SarsteerError

DEBUG = "SARSTEER_DEBUG"
"""Environment variable that ``--debug`` sets, so that subprocesses inherit it."""

app = typer.Typer(
    help="Make audio-language models refuse harmful spoken requests and still answer the rest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"sarsteer {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debug logs. Also: SARSTEER_DEBUG=1.")
    ] = False,
) -> None:
    """Options that come before the command."""
    if debug:
        os.environ[DEBUG] = "1"
    if _debugging():
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("sarsteer").setLevel(logging.DEBUG)


app.command("demo")(demo.demo)
app.command("pairs")(pairs.pairs)
app.command("speak")(speak.speak)
app.command("calibrate")(calibrate.calibrate)
app.command("tune")(tune.tune)
app.command("layers")(layers.layers)
app.command("evaluate")(evaluate.evaluate)
app.command("reproduce")(reproduce.reproduce)
app.command("respond")(respond.respond)
app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve.serve)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point. An expected error is one line; anything else is a bug and keeps its traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except SarsteerError as error:
        if _debugging():
            traceback.print_exc()
        fail(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # `sarsteer show FILE | head` is not an error. Without this, Python writes once more at exit and fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


if __name__ == "__main__":
    main()
