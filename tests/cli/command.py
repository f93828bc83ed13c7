"""Run ``sarsteer`` in this process: starting Python and importing torch would take seconds for each command."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from sarsteer.cli import output
from sarsteer.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: object, width: int = 80) -> Done:
    """The whole program, from ``sys.argv`` to the exit status, on a screen of ``width`` columns."""
    before = output.console.width, output.errors.width
    out, err = io.StringIO(), io.StringIO()
    output.console.width = output.errors.width = width
    try:
        with patch.object(sys, "argv", ["sarsteer", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        return Done(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        output.console.width, output.errors.width = before
    raise AssertionError("main() always exits")


def refused(*arguments: object, says: str) -> str:
    """Run, and require exit status 2, nothing on standard output, and one line that contains ``says``."""
    done = run(*arguments)
    assert done.status == 2, done.err
    assert done.out == ""
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line, line
    return line
