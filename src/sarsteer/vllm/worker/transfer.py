"""Copies from the host to the device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def send(target: torch.Tensor, values: NDArray[Any]) -> None:
    """Copy ``values`` into ``target``, in stream order; from pinned memory, so that the host does not wait."""
    source = torch.from_numpy(values)
    target.copy_(source.pin_memory() if target.is_cuda else source, non_blocking=True)
