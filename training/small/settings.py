"""What all stages share: paths, prompts, seeds and the voices of training and test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

WORK = Path(os.environ.get("SARSTEER_SMALL_WORK", "build/small"))
LANGUAGE_MODEL = WORK / "language-model"
HEARING = WORK / "hearing.pt"
ANSWERS = WORK / "answers.pt"
READING = WORK / "reading.pt"
LOGS = WORK / "log.jsonl"
SEED = 14


def load_language_model(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The text model and its tokenizer, padding on the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tok.pad_token_id is None:
        tok.pad_token_id = 2
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), tok


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies matrices in it (a GPU, or a CPU with AMX), else float32.

    A CPU that merely has bfloat16 instructions is slower with them than in float32: 84 against 140 GFLOP/s a core.
    """
    if torch.cuda.is_available() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32
