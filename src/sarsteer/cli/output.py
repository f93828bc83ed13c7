"""How commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from sarsteer.errors import SarsteerError

console = Console()
errors = Console(stderr=True)
LINE_EVERY = 15.0
"""Seconds between lines of progress where there is no terminal."""


def note(text: str) -> None:
    """Print a remark on standard error."""
    errors.print("[yellow]note:[/] ", end="")
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def check_out(path: Path, *, overwrite: bool = True) -> None:
    """Raise ``SarsteerError`` unless ``path`` can be written. Commands call this before they start to work."""
    if path.is_file() and not overwrite:
        raise SarsteerError("exists already; pass --overwrite or choose another file", place=str(path))
    if path.is_dir():
        raise SarsteerError("is a folder; choose a file", place=str(path))
    if path.parent.is_file():
        raise SarsteerError(f"{path.parent} is a file, not a folder; choose another place", place=str(path))
    if not path.parent.is_dir():
        raise SarsteerError(f"is not in an existing folder; create {path.parent} first", place=str(path))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise SarsteerError(f"{path.parent} is not writable; choose a file in another folder", place=str(path))


def check_out_folder(folder: Path) -> None:
    """Raise ``SarsteerError`` unless ``folder`` is, or can become, a folder that can be written to."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        where = "" if existing == folder.absolute() else f", because {existing} is a file"
        raise SarsteerError(f"is not a folder{where}; choose another with --out", place=str(folder))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise SarsteerError(f"{existing} is not writable; choose another folder with --out", place=str(folder))


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def quiet_transformers() -> None:
    """Turn off the progress bars and warnings of transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function ``report(stage, done, total)`` that draws one bar per stage, with the remaining time.

    Where standard error is not a terminal it prints a line from time to time.
    """
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
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    if not errors.is_terminal:  # a bar would leave half-drawn lines in a file or a pipe
        yield _PlainProgress()
        return
    with Progress(*columns, console=errors) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


class _PlainProgress:
    """Prints a line per stage every ``LINE_EVERY`` seconds, and its end; a short stage prints nothing."""

    def __init__(self) -> None:
        self._printed_at: dict[str, float] = {}
        self._printed: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        last = self._printed_at.setdefault(stage, now)
        if now - last >= LINE_EVERY or (done == total and stage in self._printed):
            print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)
            self._printed_at[stage] = now
            self._printed.add(stage)


def percent(value: float) -> str:
    """``0.1234`` as ``12.3 %``."""
    return f"{100 * value:.1f} %"
