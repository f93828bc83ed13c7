"""How commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from sarsteer.errors import SarsteerError

console = Console()
errors = Console(stderr=True)


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
    """A function ``report(stage, done, total)`` that draws one bar per stage, with the remaining time."""
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
    # In a file or a pipe a bar would leave half-drawn lines beside the one line of an error.
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
