"""Inkling: mel values as tokens, and short convolutions in its decoder, whose state cannot be cropped."""

from __future__ import annotations

from sarsteer.models.family import Family

INKLING = Family(
    "Inkling",
    architectures=("InklingForConditionalGeneration",),
    checkpoints=("thinkingmachines/Inkling",),
    cuts_at_window=False,
    encode_once=True,
    limits="images need torchvision",
)
