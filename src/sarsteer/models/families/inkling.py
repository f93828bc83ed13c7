"""Inkling: mel values as tokens, and short convolutions in its decoder, whose state cannot be cropped."""

from __future__ import annotations

from sarsteer.models.family import Family

INKLING = Family(
    "Inkling",
    architectures=("InklingForConditionalGeneration",),
    checkpoints=("thinkingmachines/Inkling",),
    cuts_at_window=False,
    encode_once=True,
    limits="needs transformers 5.23 or newer; images need torchvision",
)
