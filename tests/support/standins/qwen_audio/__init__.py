"""A stand-in for Qwen-Audio: ``make`` writes a tiny checkpoint with the same structure."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.audio_utils import mel_filter_bank

from tests.support.standins.qwen_audio.configuration_qwen import QWenConfig
from tests.support.standins.qwen_audio.modeling_qwen import QWenLMHeadModel

MERGES = (b"th", b"he", b"in", b" a", b" t", b" th", b" the", b"er", b"an", b"is")
CODE = ("audio", "configuration_qwen", "modeling_qwen", "qwen_generation_utils", "tokenization_qwen")
RANKS = [bytes([i]) for i in range(256)] + list(MERGES)
AUDIO_START = len(RANKS) + 208 + 3


def make(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write code, configuration, tokens, mel filters and random weights to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        shutil.copy(Path(__file__).with_name(f"{name}.py"), folder)
    audio = dict(n_mels=80, n_ctx=1500, n_state=16, n_head=2, n_layer=1, output_dim=32, audio_start_id=AUDIO_START)
    options: dict[str, Any] = dict(vocab_size=AUDIO_START + 8, audio=audio, initializer_range=0.2)
    config = QWenConfig(**{**options, **changes}, fp32=True)
    torch.manual_seed(seed)
    model = QWenLMHeadModel(config)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if "c_proj" in name or "audio.proj" in name:  # attention and audio must matter
            weights[name] = tensor.normal_(std=0.3).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    described = {**options, **changes, "fp16": True, "model_type": "qwen", "architectures": ["QWenLMHeadModel"]}
    described["auto_map"] = {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    }
    generation = {"chat_format": "chatml", "max_window_size": 6144, "do_sample": True, "top_k": 0, "top_p": 0.5}
    generation |= {"eos_token_id": len(RANKS), "pad_token_id": len(RANKS)}
    tokenizer = {"tokenizer_class": "QWenTokenizer", "model_max_length": 8192}
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}
    for name, content in (("config", described), ("generation_config", generation), ("tokenizer_config", tokenizer)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(RANKS)]
    (folder / "qwen.tiktoken").write_text("".join(lines))
    filters = mel_filter_bank(201, 80, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney").T
    np.savez_compressed(folder / "mel_filters.npz", mel_80=filters.astype(np.float32))
    return folder
