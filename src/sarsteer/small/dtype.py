"""The dtype in which ``sarsteer-small`` is fastest on a machine."""

from __future__ import annotations

from typing import Any


def best_dtype(device: Any = None) -> str:
    """``bfloat16`` where this machine multiplies matrices in it, else ``float32``.

    A GPU of compute capability 8 or newer does, and a CPU with AMX, where it is ten times as fast as float32. A CPU
    that only has AVX-512's bfloat16 is slower with it.

    Args:
        device: where the model runs; by default the GPU if there is one.

    """
    import torch

    kind = torch.device(device).type if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "bfloat16" if kind == "cpu" and has_amx else "float32"
