"""Requests: manifests, pairs, our calibration set, and the field's benchmarks in their own formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sarsteer.data.pairs import load_benign, load_pairs
    from sarsteer.data.sarsteer_pairs import load_sarsteer_pairs

__all__ = ["load_benign", "load_pairs", "load_sarsteer_pairs"]


def __getattr__(name: str) -> Any:
    import importlib

    homes = {"load_sarsteer_pairs": "sarsteer.data.sarsteer_pairs"}
    if name not in __all__:
        raise AttributeError(f"module 'sarsteer.data' has no attribute {name!r}")
    return getattr(importlib.import_module(homes.get(name, "sarsteer.data.pairs")), name)
