"""SmolLM2-135M-Instruct as plain tensors and a tokenizer, from its GGUF file or from a checkpoint folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sarsteer.small.gguf import GgufFile

Report = Callable[[float], None]
"""Takes the share that is done, from 0 to 1."""

_LAYER = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_TOP = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}


@dataclass
class TextModel:
    """Weights by their names in a Llama decoder (``layers.0.self_attn.q_proj.weight``), sizes and tokenizer."""

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    tokenizer: Any  # PreTrainedTokenizerFast
    origin: str


def from_gguf(path: Path, origin: str, report: Report = lambda share: None) -> TextModel:
    """Read and dequantize a Llama model.

    Raises:
        ValueError: the file is damaged or holds another kind of model.

    """
    file = GgufFile(path)
    meta = file.metadata
    if meta.get("general.architecture") != "llama":
        raise ValueError(f"holds a model of kind {meta.get('general.architecture')!r}, not llama")
    heads = {"q_proj": meta["llama.attention.head_count"], "k_proj": meta["llama.attention.head_count_kv"]}
    weights = {}
    for number, name in enumerate(file.names()):
        target = _target(name)
        array = file.tensor(name)
        part = target.split(".")[-2]
        if part in heads:
            array = _unpermuted(array, heads[part])
        weights[target] = torch.from_numpy(np.ascontiguousarray(array))
        report((number + 1) / len(file.tensors))
    config = {
        "vocab_size": weights["embed_tokens.weight"].shape[0],
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": round(meta["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_parameters": {"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
    }
    return TextModel(weights, config, _gguf_tokenizer(meta), origin)


def from_folder(folder: Path, origin: str, report: Report = lambda share: None) -> TextModel:
    """Read a checkpoint as ``save_pretrained`` writes it, in one file of weights.

    Raises:
        ValueError: something is missing, or it is another kind of model.

    """
    from safetensors import SafetensorError, safe_open
    from transformers import AutoTokenizer

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "model.safetensors", "pt") as file:
            keys = [key for key in file.keys() if key != "lm_head.weight"]  # noqa: SIM118
            weights = {}
            for number, key in enumerate(keys):
                weights[key.removeprefix("model.")] = file.get_tensor(key).float()
                report((number + 1) / len(keys))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if config.get("model_type") != "llama":
        raise ValueError(f"holds a model of kind {config.get('model_type')!r}, not llama")
    config.setdefault(
        "rope_parameters", {"rope_type": "default", "rope_theta": float(config.get("rope_theta", 10_000.0))}
    )
    config["pad_token_id"] = config.get("pad_token_id") or config["eos_token_id"]
    return TextModel(weights, config, tokenizer, origin)


def _target(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    _, layer, rest = name.split(".", 2)
    if rest not in _LAYER:
        raise ValueError(f"tensor {name} is not one of a llama model")
    return f"layers.{layer}.{_LAYER[rest]}"


def _unpermuted(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Undo the order of rows that GGUF gives rotated projections."""
    half = array.shape[0] // heads // 2
    rows: np.ndarray[Any, Any] = array.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(array.shape)
    return rows


def _gguf_tokenizer(meta: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    names = {name: tokens[meta[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names["bos"],
        eos_token=names["eos"],
        pad_token=tokens[meta["tokenizer.ggml.padding_token_id"]],
        padding_side="left",
    )
