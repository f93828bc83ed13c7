"""Write files completely or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sarsteer.errors import SarsteerError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target``. It replaces ``target`` if the block succeeds, and is deleted otherwise."""
    if not target.parent.is_dir():
        raise SarsteerError(f"its folder does not exist; create {target.parent}", place=str(target))
    if target.is_dir():
        raise SarsteerError("is a folder; give a file", place=str(target))
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask allows; some writers create files that only their owner can read
        yield temporary
        os.chmod(temporary, mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the data does
        os.replace(temporary, target)
    except Exception as error:
        from safetensors import SafetensorError  # what its writer raises, such as for a full disk

        if not isinstance(error, (OSError, SafetensorError)):
            raise
        reason = getattr(error, "strerror", None) or error
        raise SarsteerError(f"cannot be written ({reason}); choose another file", place=str(target)) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Refuse a second run that writes ``output``, a file or a folder, while the block runs.

    The process holds the lock, so that a kill releases it. The lock's file is ``.NAME.lock`` beside the output.

    Raises:
        SarsteerError: another run holds it, or its file cannot be written.

    """
    from filelock import FileLock, Timeout

    path = output.absolute().with_name(f".{output.absolute().name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SarsteerError(
            "another run is writing it; wait for that run, or choose another output", place=str(output)
        ) from None
    except OSError as error:
        raise SarsteerError(
            f"cannot be locked ({error.strerror or error}); choose another output", place=str(output)
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def check_space(path: Path, size: int) -> None:
    """Raise ``SarsteerError`` unless ``size`` bytes are free where ``path`` will be written."""
    free = shutil.disk_usage(path.absolute().parent).free
    if free < size:
        raise SarsteerError(
            f"needs {size / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free; delete files, or choose another disk",
            place=str(path),
        )


def cache_folder() -> Path:
    """``SARSTEER_CACHE``, or ``~/.cache/sarsteer``."""
    return Path(os.environ.get("SARSTEER_CACHE") or Path.home() / ".cache" / "sarsteer")


def write_text(target: Path, text: str) -> None:
    """Write ``text`` atomically, in UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
