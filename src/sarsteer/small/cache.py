"""Build the checkpoint once: ``small_folder`` returns it, whole and checked, to any number of processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

from sarsteer.errors import ModelError
from sarsteer.files import cache_folder
from sarsteer.progress import progress
from sarsteer.small import checkpoint
from sarsteer.small.design import NAME
from sarsteer.small.source import WHEEL_ORIGIN, describe, digest

FORMAT = 1  # of what is written; raise it to have old caches built again
RECORD = "complete.json"


def small_folder() -> Path:
    """The folder of the whole checkpoint, built on first use (about 10 s, 370 MB) and again if it is damaged.

    Without the language model, a checkpoint that was built earlier, or in another environment, is used.

    Raises:
        ModelError: the language model cannot be found, or the cache cannot be written.

    """
    from filelock import FileLock
    from safetensors import SafetensorError

    if not checkpoint.TRAINED.is_file():
        raise ModelError(
            f"{NAME}: its weights are not installed (looked in {checkpoint.TRAINED.parent}); run pip install "
            f"'sarsteer[small]', or make small in a clone"
        )
    trained, origin = digest(checkpoint.TRAINED), describe()
    folder = _folder(trained, origin)
    if is_whole(folder):
        return folder
    if origin.startswith("hub ") and is_whole(built := _folder(trained, WHEEL_ORIGIN)):
        return built
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_whole(folder):  # another process may have built it meanwhile
                _build(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"{folder}: cannot be written ({reason}); name another cache in SARSTEER_CACHE (370 MB)"
        ) from None
    return folder


def _folder(trained: str, origin: str) -> Path:
    key = hashlib.sha256(f"{FORMAT} {trained} {origin}".encode()).hexdigest()[:16]
    return cache_folder() / f"{NAME}-{key}"


def is_whole(folder: Path) -> bool:
    """Whether every file of the checkpoint is as it was written."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return bool(record) and all(digest(folder / name) == value for name, value in record.items())
    except (OSError, ValueError, AttributeError):
        return False


def _build(folder: Path) -> None:
    """Into a folder beside it, which takes its name when it is whole. The caller holds the lock."""
    for left in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir()
        with progress(f"{NAME}: building the model in {folder} (once)") as report:
            checkpoint.write_checkpoint(temporary, report)
        record = {path.name: digest(path) for path in sorted(temporary.iterdir())}
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
