"""How a command ends that failed: a line on standard error, with ``--json`` an object on standard output, a status."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import typer

from sarsteer.errors import SarsteerError

USAGE: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises for wrong arguments. Newer versions of typer contain their own copy of click."""
RESUMABLE = ("attack", "calibrate", "evaluate", "pairs", "reproduce", "speak", "tune")
"""Commands that save their progress, and continue when they are run again."""
EXPECTED, BUG, INTERRUPTED = 2, 1, 130


def fail(error: BaseException, *, debug: bool = False) -> int:
    """Report ``error``, and return the exit status.

    An expected error is one line; anything else is a bug and keeps its traceback.
    """
    if isinstance(error, USAGE):
        return _wrong_usage(error)
    if isinstance(error, SarsteerError):
        if debug:
            traceback.print_exception(error)
        line = _one_line(str(error))
        _print_json(type(error).__name__, line, EXPECTED)
        print(f"error: {line}", file=sys.stderr)
        return EXPECTED
    if isinstance(error, KeyboardInterrupt):
        line = "stopped; run the same command again to resume" if _resumes() else "stopped"
        _print_json("KeyboardInterrupt", line, INTERRUPTED)
        print(line, file=sys.stderr)
        return INTERRUPTED
    _print_json(type(error).__name__, _one_line(str(error)), BUG)
    traceback.print_exception(error)
    return BUG


def _wrong_usage(error: Any) -> int:
    """The usage of the command, and what is wrong, with the value."""
    text = error.format_message().replace("Value error, ", "")
    value = _value_of(getattr(error, "param", None))
    if value is not None and repr(value) not in text:
        text = text.replace("Invalid value for", f"Invalid value {value!r} for", 1)
    error.format_message = lambda: text
    _print_json("UsageError", _one_line(text), error.exit_code)
    error.show()
    return int(error.exit_code)


def _resumes() -> bool:
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    return command in RESUMABLE


def _value_of(param: Any) -> str | None:
    """What the command line gives for an option: typer's messages do not always quote it."""
    for position, argument in enumerate(sys.argv):
        name, equals, value = argument.partition("=")
        if name in getattr(param, "opts", ()) and name.startswith("-"):
            return value if equals else next(iter(sys.argv[position + 1 :]), None)
    return None


def _print_json(kind: str, message: str, status: int) -> None:
    """With ``--json``, programs read errors where they read results."""
    if "--json" in sys.argv:
        error = {"type": kind, "message": message, "exit_status": status}
        print(json.dumps({"error": error}, ensure_ascii=False, indent=2))


def _one_line(text: str) -> str:
    return " ".join(text.split())
