"""``sarsteer``: the commands. An expected error prints one line and exits with 2; ``--debug`` adds the traceback."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, TextIO

import typer

from sarsteer import __version__
from sarsteer.cli import (
    attack,
    calibrate,
    compare,
    demo,
    doctor,
    drift,
    evaluate,
    export,
    federate,
    layers,
    models,
    pairs,
    report,
    reproduce,
    respond,
    serve,
    show,
    speak,
    studio,
    threshold,
    tune,
)
from sarsteer.cli.failure import INTERRUPTED, fail
from sarsteer.cli.help import Command, Group
from sarsteer.cli.output import note
from sarsteer.errors import SteeringWarning

DEBUG = "SARSTEER_DEBUG"
"""Environment variable that ``--debug`` sets, so that subprocesses inherit it."""

_python_shows = warnings.showwarning

app = typer.Typer(
    cls=Group,
    help="Make audio-language models refuse harmful spoken requests and still answer the rest.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it wraps at any width, and never reads "[/VARIANT]" as markup
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


_COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (demo.demo, "Run the whole defense on the embedded model."),
    (pairs.pairs, "Write safe twins of harmful requests."),
    (speak.speak, "Turn written requests into speech."),
    (calibrate.calibrate, "Make a steering file from pairs of clips."),
    (tune.tune, "Choose strengths, layers and gate by search."),
    (layers.layers, "Estimate the effect of each decoder layer."),
    (evaluate.evaluate, "Measure defenses on benchmarks."),
    (attack.attack, "Measure defenses under attack."),
    (compare.compare, "Compare two evaluations, request by request."),
    (reproduce.reproduce, "Run the paper's experiments."),
    (respond.respond, "Answer one request."),
    (serve.serve, "Serve a steered model over HTTP."),
    (studio.studio, "Try a defense in a browser."),
    (export.export, "Write a built-in model into a folder."),
    (show.show, "Show a steering file."),
    (threshold.threshold, "Set the gate's threshold from safe traffic."),
    (drift.drift, "Compare live scores with calibration's."),
    (report.report, "Write a report of an evaluation."),
    (models.models, "List the model families."),
    (doctor.doctor, "Check the installation, and a model."),
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # serve hands vLLM's options to vLLM
_CLASSES: dict[Callable[..., None], type[Command]] = {
    evaluate.evaluate: evaluate.EvaluateCommand,
    attack.attack: attack.AttackCommand,
}
for _command, _summary in _COMMANDS:
    _settings = _PASS_ON if _command is serve.serve else None
    _class = _CLASSES.get(_command, Command)
    app.command(_command.__name__, short_help=_summary, context_settings=_settings, cls=_class)(_command)
app.add_typer(federate.app, name="federate", short_help="Calibrate over many sites.")


def main() -> None:
    """Entry point: run a command, and exit with 0, 2 for an expected error, or 3 for a broken limit."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.showwarning = _show_warning
    try:
        status = app(prog_name="sarsteer", standalone_mode=False)  # a status, or None after a whole command
    except BrokenPipeError:
        # `sarsteer show FILE | head` is not an error. Without this, Python writes once more at exit and fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        status = fail(error, debug=_debugging())
    if status == INTERRUPTED:  # typer turns Ctrl-C into this status
        fail(KeyboardInterrupt())
    sys.exit(status or 0)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as notes: the place in the code means nothing to whoever runs a command."""
    if issubclass(category, SteeringWarning) and not _debugging():
        note(str(message))
    else:
        _python_shows(message, category, filename, lineno, file, line)


def _debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


if __name__ == "__main__":
    main()
