"""A tiny language model, as a GGUF file and as a folder, and tiny trained parts."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sarsteer.small.design import AUDIO, AUDIO_BEGIN, AUDIO_END, LORA_RANK, LORA_TARGETS

WIDTH, LAYERS, HEADS, KEYS, INNER = 64, 2, 4, 2, 96
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", AUDIO_BEGIN, AUDIO, AUDIO_END)
ENCODER = {
    "num_mel_bins": 80,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "max_source_positions": 1500,
}
MATRICES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // HEADS * KEYS, WIDTH),
    "attn_v": (WIDTH // HEADS * KEYS, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (INNER, WIDTH),
    "ffn_up": (INNER, WIDTH),
    "ffn_down": (WIDTH, INNER),
}


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens (special ones, all bytes, two merged ones) and merges."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *letters, "he", "Ġt"], ["h e", "Ġ t"]


def q4_1(array: np.ndarray[Any, Any]) -> tuple[bytes, np.ndarray[Any, Any]]:
    """The blocks of ``array``, and the numbers that they stand for."""
    blocks = array.reshape(-1, 32)
    least = blocks.min(1, keepdims=True).astype("<f2")
    scale = ((blocks.max(1, keepdims=True) - blocks.min(1, keepdims=True)) / 15).astype("<f2")
    steps = np.clip(np.round((blocks - least.astype("f4")) / scale.astype("f4")), 0, 15).astype(np.uint8)
    packed = steps[:, :16] | (steps[:, 16:] << 4)
    data = b"".join(s.tobytes() + m.tobytes() + p.tobytes() for s, m, p in zip(scale, least, packed, strict=True))
    return data, (steps * scale.astype("f4") + least.astype("f4")).reshape(array.shape)


def q8_0(array: np.ndarray[Any, Any]) -> tuple[bytes, np.ndarray[Any, Any]]:
    """The same in 8 bits."""
    blocks = array.reshape(-1, 32)
    scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype("<f2")
    steps = np.round(blocks / scale.astype("f4")).astype(np.int8)
    data = b"".join(s.tobytes() + p.tobytes() for s, p in zip(scale, steps, strict=True))
    return data, (steps * scale.astype("f4")).reshape(array.shape)


def write_gguf(path: Path, architecture: str = "llama") -> dict[str, np.ndarray[Any, Any]]:
    """A Llama with random weights; returns them as the file holds them, in float32."""
    tokens, merges = vocabulary()
    rng = np.random.default_rng(0)
    tensors: dict[str, tuple[int, bytes, np.ndarray[Any, Any]]] = {}

    def add(name: str, array: np.ndarray[Any, Any], kind: int) -> None:
        data, held = {0: lambda a: (a.tobytes(), a), 3: q4_1, 8: q8_0}[kind](array.astype("<f4"))
        tensors[name] = (kind, data, held)

    add("token_embd.weight", rng.normal(size=(len(tokens), WIDTH)) * 0.3, 8)
    add("output_norm.weight", 1 + 0.1 * rng.normal(size=WIDTH), 0)
    for layer in range(LAYERS):
        for name, shape in MATRICES.items():
            add(f"blk.{layer}.{name}.weight", rng.normal(size=shape) * 0.2, 3)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", 1 + 0.1 * rng.normal(size=WIDTH), 0)
    meta: dict[str, Any] = {
        "general.architecture": architecture,
        "llama.block_count": LAYERS,
        "llama.context_length": 256,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEYS,
        "llama.rope.freq_base": 10_000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta))
    head += b"".join(_text(key) + _value(value) for key, value in meta.items())
    body = b""
    for name, (kind, data, held) in tensors.items():
        shape = tuple(reversed(held.shape))
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(body))
        body += data + bytes(-len(data) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + body)
    return {name: held for name, (_, _, held) in tensors.items()}


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return (
        struct.pack("<I", 9)
        + _value(value[0])[:4]
        + struct.pack("<Q", len(value))
        + b"".join(_value(item)[4:] for item in value)
    )


def trained() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Random hearing and LoRA of the tiny sizes."""
    from training.small.network import Hearing

    torch.manual_seed(1)
    hearing = Hearing({**TEXT_CONFIG, "vocab_size": len(vocabulary()[0])}, ENCODER).state_dict()
    lora = {}
    shapes = {
        "q_proj": MATRICES["attn_q"],
        "k_proj": MATRICES["attn_k"],
        "v_proj": MATRICES["attn_v"],
        "o_proj": MATRICES["attn_output"],
        "gate_proj": MATRICES["ffn_gate"],
        "up_proj": MATRICES["ffn_up"],
        "down_proj": MATRICES["ffn_down"],
    }
    for layer in range(LAYERS):
        for name in LORA_TARGETS:
            home = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            rows, columns = shapes[name]
            lora[f"layers.{layer}.{home}.{name}.down"] = torch.randn(LORA_RANK, columns) * 0.05
            lora[f"layers.{layer}.{home}.{name}.up"] = torch.randn(rows, LORA_RANK) * 0.05
    return hearing, lora


TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
