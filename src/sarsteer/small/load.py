"""Load or export ``sarsteer-small``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sarsteer.errors import ModelError
from sarsteer.small.cache import RECORD, small_folder
from sarsteer.small.design import NAME


def best_dtype() -> str:
    """``bfloat16`` where this machine multiplies matrices in it, else ``float32``.

    A GPU of compute capability 8 or newer does, and a CPU with AMX, where it is ten times as fast as float32. A CPU
    that only has AVX-512's bfloat16 is slower with it.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "bfloat16" if has_amx else "float32"


def load_small(**options: Any) -> Any:
    """The model, ready to be calibrated and steered.

    Args:
        options: as for ``sarsteer.load_model``; ``dtype`` is ``best_dtype()`` by default.

    Returns:
        an ``AudioLanguageModel``.

    Raises:
        ModelError: the language model is not to be had; the message names the command that installs it.

    """
    from sarsteer.models.loading import load_model

    options.setdefault("dtype", best_dtype())
    return load_model(small_folder(), **options)


def export_small(folder: str | Path) -> Path:
    """Write the whole checkpoint into a new folder, for ``from_pretrained``, vLLM and others.

    Raises:
        ModelError: the folder exists and is not empty, or cannot be written.

    """
    target = Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ModelError(f"{target}: exists and is not empty; name a new folder for {NAME}")
    source = small_folder()
    temporary = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(RECORD))
        if target.is_dir():
            target.rmdir()
        temporary.replace(target)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written ({error.strerror or error}); name another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
