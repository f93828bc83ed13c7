"""GLM-ASR."""

from __future__ import annotations

from sarsteer.models.family import Family

GLM_ASR = Family(
    "GLM-ASR",
    architectures=("GlmAsrForConditionalGeneration",),
    checkpoints=("zai-org/GLM-ASR-Nano-2512",),
    cuts_at_window=False,
    padding_leaks=False,
    encode_once=True,
    prefix_reuse=True,
    min_clips=1,
    max_clips=1,
    limits="trained to transcribe rather than to answer",
)
