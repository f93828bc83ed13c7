"""Whether the weights of a checkpoint are complete on this machine."""

from __future__ import annotations

import json
from pathlib import Path


def missing_weights(name: str) -> str:
    """Why the checkpoint ``name`` cannot be loaded without a download; empty if it can. Downloads nothing."""
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, OSError):
            return "neither a folder nor in the Hub's cache on this machine"
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            return f"{index} cannot be read"
        absent = sorted(file for file in files if not (folder / file).is_file())
        return f"{len(absent)} of {len(files)} weight files are missing, such as {absent[0]}" if absent else ""
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return f"{folder} has no weights"
    return ""
