"""A stand-in for Kimi-Audio: a tiny checkpoint with remote code, and a tiny ``kimia_infer`` that runs it.

Written from scratch, with the structure of the real ones and with what breaks them on transformers 5. The real ones
differ in size, in their tokenizers (here: bytes, loudness), and need CUDA and flash-attn.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
PACKAGE = HERE / "package"
BYTES, CONTROL, SOUNDS = 256, 16, 32
LAYERS, BRANCH, MIMO, WIDTH, FEATURES = 5, 3, 2, 32, 12

CONFIG = {
    "architectures": ["MoonshotKimiaForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_moonshot_kimia.KimiAudioConfig",
        "AutoModelForCausalLM": "modeling_moonshot_kimia.MoonshotKimiaForCausalLM",
    },
    "model_type": "kimi_audio",
    "torch_dtype": "float32",
    "vocab_size": BYTES + CONTROL + SOUNDS,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
    "pad_token_id": BYTES + CONTROL - 1,
    "num_base_tokens": BYTES,
    "kimia_token_offset": BYTES + CONTROL,
    "kimia_mimo_layers": MIMO,
    "kimia_mimo_transformer_from_layer_index": BRANCH,
    "kimia_mimo_audiodelaytokens": 6,
    "kimia_adaptor_input_dim": FEATURES,
    "kimia_media_begin": BYTES + 2,
    "kimia_media_end": BYTES + 3,
    "use_whisper_feature": True,
}


def make(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of random weights, large enough that layers and positions matter."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for file in (HERE / "remote").glob("*.py"):
        shutil.copy(file, folder / file.name)
    save_file(_weights(seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def remove_package() -> None:
    """Unload the stand-in of ``kimia_infer``."""
    for name in [name for name in sys.modules if name.split(".")[0] == "kimia_infer"]:
        del sys.modules[name]


def package() -> ModuleType:
    """``kimia_infer.api.kimia``, which must be on ``sys.path``."""
    import importlib

    return importlib.import_module("kimia_infer.api.kimia")


def _weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return 0.25 * torch.randn(*shape, generator=generator)

    half, vocabulary = WIDTH // 2, CONFIG["vocab_size"]
    out: dict[str, torch.Tensor] = {}
    for name in [f"layers.{i}" for i in range(LAYERS)] + [f"mimo_layers.{i}" for i in range(MIMO)]:
        for part, width in (("q", WIDTH), ("k", half), ("v", half)):
            out[f"model.{name}.self_attn.{part}_proj.weight"] = noise(width, WIDTH)
            out[f"model.{name}.self_attn.{part}_proj.bias"] = noise(width)
        out[f"model.{name}.self_attn.o_proj.weight"] = noise(WIDTH, WIDTH)
        for part, shape in (("gate", (2 * WIDTH, WIDTH)), ("up", (2 * WIDTH, WIDTH)), ("down", (WIDTH, 2 * WIDTH))):
            out[f"model.{name}.mlp.{part}_proj.weight"] = noise(*shape)
        for part in ("input", "post_attention"):
            out[f"model.{name}.{part}_layernorm.weight"] = torch.ones(WIDTH)
    out |= {f"model.{name}.weight": torch.ones(WIDTH) for name in ("norm", "mimo_norm")}
    out["model.embed_tokens.weight"] = noise(vocabulary, WIDTH)
    out |= {f"{head}.weight": noise(vocabulary, WIDTH) for head in ("lm_head", "mimo_output")}
    out["model.vq_adaptor.layers.0.weight"] = noise(WIDTH, FEATURES)
    out["model.vq_adaptor.layers.0.bias"] = noise(WIDTH)
    out["model.vq_adaptor.layers.3.weight"] = noise(WIDTH, WIDTH)
    out["model.vq_adaptor.layers.3.bias"] = noise(WIDTH)
    out["model.vq_adaptor.layers.4.weight"] = torch.ones(WIDTH)
    out["model.vq_adaptor.layers.4.bias"] = torch.zeros(WIDTH)
    return out
