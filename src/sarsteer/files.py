"""Write files completely or not at all."""

from __future__ import annotations

import os
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
    except OSError as error:
        raise SarsteerError(
            f"cannot be written ({error.strerror or error}); choose another file", place=str(target)
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """``SARSTEER_CACHE``, or ``~/.cache/sarsteer``."""
    return Path(os.environ.get("SARSTEER_CACHE") or Path.home() / ".cache" / "sarsteer")


def write_text(target: Path, text: str) -> None:
    """Write ``text`` atomically, in UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
