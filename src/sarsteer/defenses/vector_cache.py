"""Vectors that take long to compute, stored in the run's folder and found again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sarsteer.errors import CalibrationError
from sarsteer.files import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def cached_vectors(
    folder: Path | None, name: str, depends_on: Sequence[str], compute: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The tensor that ``compute`` returns, computed at most once per folder.

    Args:
        folder: where it is stored; None to store nothing.
        name: of the defense; the file starts with it.
        depends_on: everything that the tensor depends on.
        compute: called if the folder does not have it.

    Raises:
        CalibrationError: the file is damaged.

    """
    digest = hashlib.sha256("\0".join((name, *depends_on)).encode()).hexdigest()[:32]
    file = None if folder is None else folder / f"{name}-{digest}.safetensors"
    if file is not None and file.is_file():
        return _load(file)
    vectors = compute()
    if file is not None:
        from safetensors.torch import save_file

        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            save_file({"vectors": vectors.contiguous()}, temporary)
    return vectors


def _load(file: Path) -> torch.Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)["vectors"]
    except (SafetensorError, KeyError, OSError):
        raise CalibrationError("is damaged; delete it, and it is computed again", place=str(file)) from None
