"""A tiny ``sarsteer-small`` in the places of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.small import checkpoint, source
from sarsteer.small.weights import write_weights
from tests.small.parts import ENCODER, trained, write_gguf


@pytest.fixture(scope="session")
def tiny_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GGUF file and a file of trained parts."""
    folder = tmp_path_factory.mktemp("parts")
    write_gguf(folder / source.GGUF_FILE)
    hearing, lora = trained()
    write_weights(folder / "trained.safetensors", hearing, lora, ENCODER)
    return folder / source.GGUF_FILE, folder / "trained.safetensors"


@pytest.fixture
def tiny_small(tiny_parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model stands in for the real one; returns the cache's root."""
    gguf, weights = tiny_parts
    monkeypatch.delenv(source.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "wheel_file", lambda: gguf)
    monkeypatch.setattr(source, "GGUF_SHA256", source.digest(gguf))
    monkeypatch.setattr(checkpoint, "TRAINED", weights)
    monkeypatch.setattr(checkpoint.write_checkpoint, "__defaults__", (lambda share: None, weights))
    return tmp_path / "cache"
