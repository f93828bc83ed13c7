"""The models that need no download by name: where their checkpoints are, and the dtype that they run in."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarsteer import tiny
from sarsteer.errors import ModelError, did_you_mean
from sarsteer.small.design import NAME as SMALL

ORIGIN = "origin.json"
"""In a checkpoint's folder: what it was made from."""
_RECORD = "complete.json"  # of the cache, no part of a checkpoint


@dataclass(frozen=True)
class PackagedModel:
    """A model that ``load_model`` knows by a name of its own.

    Attributes:
        name: its name.
        folder: returns the folder of its checkpoint, which may take some seconds on first use.
        dtype: returns the dtype that it runs in on a device, if the user chooses none.

    """

    name: str
    folder: Callable[[], Path]
    dtype: Callable[[Any], str]


def _small_folder() -> Path:
    from sarsteer.small.cache import small_folder

    return small_folder()


def _small_dtype(device: Any) -> str:
    from sarsteer.small.dtype import best_dtype

    return best_dtype(device)


PACKAGED = {
    SMALL: PackagedModel(SMALL, _small_folder, _small_dtype),
    # stored as float16 to save space, meant to run in float32
    tiny.NAME: PackagedModel(tiny.NAME, tiny.model_folder, lambda device: "float32"),
}
"""By name."""


def read_origin(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a checkpoint says that it was made from; None if it says nothing."""
    try:
        origin = json.loads((Path(folder) / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return origin if isinstance(origin, dict) else None


def export_model(name: str, folder: str | os.PathLike[str]) -> Path:
    """Write a packaged model's checkpoint into a new folder, for ``from_pretrained``, vLLM and others.

    Args:
        name: ``"sarsteer-small"`` or ``"sarsteer-tiny"``.
        folder: a folder that does not exist, or is empty.

    Raises:
        ModelError: there is no such model, or the folder is not empty or cannot be written.

    """
    if name not in PACKAGED:
        raise ModelError(
            f"{name} is not part of sarsteer; only {' and '.join(sorted(PACKAGED))} can be exported, "
            "other models have a folder already" + did_you_mean(name, PACKAGED)
        )
    target = Path(folder)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            kind = "is not empty" if target.is_dir() else "is a file"
            raise ModelError(f"{target}: {kind}; name a new folder for {name}")
        source = PACKAGED[name].folder()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(_RECORD), copy_function=shutil.copyfile)
            if target.is_dir():
                target.rmdir()
            temporary.replace(target)  # fails if another process has filled the folder since
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{target}: cannot be written ({reason}); name another folder") from None
    return target
