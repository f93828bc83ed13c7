"""How commands speak: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from sarsteer.errors import SarsteerError

console = Console()
errors = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """Print one line and exit with 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def check_out(path: Path, *, overwrite: bool = True) -> None:
    """Raise ``SarsteerError`` unless ``path`` can be written; a command checks this before its work."""
    if path.exists() and not overwrite:
        raise SarsteerError(f"{path}: exists already; pass --overwrite or name another file")
    if path.is_dir() or not path.parent.is_dir():
        raise SarsteerError(f"{path}: is no file in an existing folder; create {path.parent} or name a file")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def quiet_transformers() -> None:
    """Keep transformers' own progress bars and notices out of our output."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function ``report(stage, done, total)`` that draws one bar a stage, with the time that is left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # into a file or a pipe a bar would leave half-drawn lines beside the one line of an error
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


def percent(value: float) -> str:
    """``0.1234`` as ``12.3 %``."""
    return f"{100 * value:.1f} %"
