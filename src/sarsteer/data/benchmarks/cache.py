"""A cache of clips that come inside tables; a clip's file name is the digest of its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sarsteer.errors import BenchmarkError
from sarsteer.files import atomic_path, cache_folder

_MAGIC = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"\xff", ".mp3"))


def store_clip(data: bytes) -> Path:
    """The file with these bytes; an existing file is reused.

    Raises:
        BenchmarkError: the cache cannot be written.

    """
    digest = hashlib.sha256(data).hexdigest()
    suffix = next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".bin")
    path = cache_folder() / "clips" / digest[:2] / f"{digest}{suffix}"
    if path.is_file() and path.stat().st_size == len(data):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise BenchmarkError(
            f"{path.parent} cannot be created ({reason}); set SARSTEER_CACHE to another folder"
        ) from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path
