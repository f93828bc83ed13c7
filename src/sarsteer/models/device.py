"""The device that a model is loaded to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sarsteer.errors import ModelError

if TYPE_CHECKING:
    import torch


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """``device`` if it can be used; by default the GPU if there is one, else the CPU.

    Raises:
        ModelError: there is no such device, or torch cannot use it.

    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelError(f"unknown device {device!r}; use {_available()}") from None
    try:
        if chosen.type == "meta":
            raise NotImplementedError("meta tensors have no values")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them
        without = chosen.type == "cuda" and torch.version.cuda is None and torch.version.hip is None
        reason = f"torch {torch.__version__} is built without CUDA" if without else "this machine does not have it"
        raise ModelError(f"device {str(chosen)!r} is not available ({reason}); use {_available()}") from error
    return chosen


def to_device(module: Any, device: torch.device, name: str) -> Any:
    """``module`` on ``device``.

    Raises:
        ModelError: it does not fit in the device's memory.

    """
    import torch

    try:
        return module.to(device)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{name}: does not fit in the memory of {device}; use a smaller dtype, such as bfloat16, or another device"
        ) from None


def _available() -> str:
    """The devices of this machine, for an error."""
    import torch

    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return " or ".join([*devices, "cpu"])
