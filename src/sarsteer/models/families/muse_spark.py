"""Muse Spark: encodes the samples themselves, at 24 kHz; every fourth decoder layer has no sliding window."""

from __future__ import annotations

from sarsteer.models.family import Family

MUSE_SPARK = Family(
    "Muse Spark",
    architectures=("MuseSparkForConditionalGeneration",),
    checkpoints=("meta-models/Muse-Spark-Open-816B-A42B",),
    cuts_at_window=False,
    encode_once=True,
    prefix_reuse=True,
    limits="images and video need torchvision",
)
