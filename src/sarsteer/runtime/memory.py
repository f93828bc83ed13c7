"""Recognize a lack of memory, which a smaller batch may fix."""

from __future__ import annotations

import sys

_CPU_ALLOCATOR = "DefaultCPUAllocator"
"""torch's allocator for the CPU reports a lack of memory as a RuntimeError that contains its name."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that the device, or the machine, has too little memory."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # without torch there is no error of torch's
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
