"""``sarsteer-tiny``: a small speech model and its clips, included in the package.

Its numbers show that the code works and how the trade-offs look. They say nothing about a 7B model.
"""

from __future__ import annotations

from pathlib import Path

from sarsteer.errors import ModelError

NAME = "sarsteer-tiny"
"""The model's name, and that of its calibration and test clips."""

FOLDER = Path(__file__).parent


def model_folder() -> Path:
    """The folder of the model's weights and processor."""
    folder = FOLDER / "model"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"the embedded model is not in {folder}; reinstall sarsteer, or run make tiny")
    return folder


def clips_manifest(split: str) -> Path:
    """The manifest of a split: ``calibration``, ``test`` or ``everyday``."""
    return FOLDER / "clips" / f"{split}.jsonl"
