"""Files are written completely or not at all, with the permissions that the umask allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sarsteer.errors import SarsteerError
from sarsteer.files import atomic_path, write_text


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as some writers do
    finally:
        os.umask(previous)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SarsteerError, match="create"):
        write_text(tmp_path / "none" / "a", "text")
