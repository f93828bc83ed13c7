"""Nemotron-H Omni."""

from __future__ import annotations

from sarsteer.models.family import Family

NEMOTRON_H_OMNI = Family(
    "Nemotron-H Omni",
    architectures=("NemotronH_Omni_Reasoning_V3",),
    checkpoints=("nvidia/NVIDIA-Nemotron-3-Nano-Omni-30B-A3B",),
    cuts_at_window=False,
    encode_once=True,
    limits="each Mamba, attention, MLP or expert block counts as a layer",
)
