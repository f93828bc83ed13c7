"""Steering files."""

from __future__ import annotations

from pathlib import Path

import pytest

import sarsteer


@pytest.fixture(scope="session")
def steering_file(steering: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("steering") / "a.safetensors")


@pytest.fixture(scope="session")
def gated_file(steering: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    gated = steering.with_defaults(gate=True)
    return gated.save(tmp_path_factory.mktemp("gated") / "gated.safetensors")
