"""Write files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sarsteer.errors import SarsteerError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the block ends well, and vanishes otherwise."""
    if not target.parent.is_dir():
        raise SarsteerError(f"{target}: its folder does not exist; create {target.parent} first")
    if target.is_dir():
        raise SarsteerError(f"{target}: is a folder; name a file")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the data does
        os.replace(temporary, target)
    except OSError as error:
        raise SarsteerError(f"{target}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` atomically, in UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
