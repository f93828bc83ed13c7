"""Build the checkpoint once: ``small_folder`` returns it, whole and checked, to any number of processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sarsteer.errors import ModelError
from sarsteer.small import checkpoint
from sarsteer.small.design import NAME
from sarsteer.small.source import describe, digest

FORMAT = 1  # of what is written; raise it to have old caches built again
RECORD = "complete.json"


def cache_root() -> Path:
    """``SARSTEER_CACHE``, or ``~/.cache/sarsteer``."""
    return Path(os.environ.get("SARSTEER_CACHE") or Path.home() / ".cache" / "sarsteer")


def small_folder() -> Path:
    """The folder of the whole checkpoint, built on first use (about 10 s, 320 MB) and again where it is damaged.

    Raises:
        ModelError: a part cannot be had, or the cache cannot be written.

    """
    from filelock import FileLock

    trained = checkpoint.TRAINED
    if not trained.is_file():
        raise ModelError(f"{NAME}: its weights are not in {trained.parent}; reinstall sarsteer, or run make small")
    key = hashlib.sha256(f"{FORMAT} {digest(trained)} {describe()}".encode()).hexdigest()[:16]
    folder = cache_root() / f"{NAME}-{key}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_whole(folder):
                _build(folder)
    except OSError as error:
        raise ModelError(
            f"{folder}: cannot be written ({error.strerror or error}); name another cache in SARSTEER_CACHE"
        ) from None
    return folder


def is_whole(folder: Path) -> bool:
    """Whether every file of the checkpoint is as it was written."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return bool(record) and all(digest(folder / name) == value for name, value in record.items())
    except (OSError, ValueError, AttributeError):
        return False


def _build(folder: Path) -> None:
    """Into a folder beside it, which takes its name when it is whole."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _progress(f"{NAME}: building the model in {folder} (once)") as report:
            checkpoint.write_checkpoint(temporary, report)
        record = {path.name: digest(path) for path in sorted(temporary.iterdir())}
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _progress:
    """A progress bar on standard error; one line where that is no terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._console = Console(stderr=True)
        self._bar = Progress(console=self._console, transient=True, disable=not sys.stderr.isatty())
        self._title = title

    def __enter__(self) -> Callable[[float], None]:
        if not sys.stderr.isatty():
            print(self._title, file=sys.stderr, flush=True)
        self._bar.start()
        task = self._bar.add_task(self._title, total=1.0)
        return lambda share: self._bar.update(task, completed=share)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
