"""The work that every library does: models, prompts, vectors and calibration pairs, written to a folder.

``toy`` is the language model of sarsteer-tiny with its real weights, ``100M`` a random Qwen2 of 104 million parameters
with the same tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as T
from safetensors.torch import save_file

import sarsteer
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT

MODELS = ("toy", "100M")
ALPHA = 0.1
LENGTH, ROWS = 128, 32
PAIRS = {"toy": 32, "100M": 8}


def write(name: str, folder: Path) -> Path:
    """Write the model ``name`` and its job, unless they exist; returns its folder."""
    out = folder / name
    if (out / "job.json").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    tiny = sarsteer.load_model("sarsteer-tiny", device="cpu")
    torch.manual_seed(0)
    model = _decoder(tiny) if name == "toy" else _random(tiny.tokenizer)
    model.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    # transformers 4 reads the base of RoPE here, transformers 5 in rope_parameters
    config["rope_theta"] = model.config.rope_parameters["rope_theta"]
    (out / "config.json").write_text(json.dumps(config, indent=2))
    tiny.tokenizer.save_pretrained(out)
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    vocabulary = model.config.vocab_size
    size = _activations(model, torch.randint(vocabulary, (1, 16)))
    vectors = torch.nn.functional.normalize(torch.randn(layers, width), dim=1) * size[:, None]  # 10 % after alpha
    ids = torch.randint(300, vocabulary, (ROWS, LENGTH))  # equal lengths: padding is another matter
    save_file({"vectors": vectors, "ids": ids}, out / "job.safetensors")
    job = {
        "alpha": ALPHA,
        "pad_token": tiny.tokenizer.pad_token,
        "chat_template": tiny.tokenizer.chat_template or tiny.processor.chat_template,
        "calibration": _calibration(tiny, PAIRS[name]),
    }
    (out / "job.json").write_text(json.dumps(job))
    return out


def _decoder(tiny: AudioLanguageModel) -> Any:
    """The language model of sarsteer-tiny as a text model."""
    config = tiny.module.config.text_config
    model = T.Qwen2ForCausalLM(config).eval()
    weights = {f"model.{k}": v for k, v in tiny.module.get_decoder().state_dict().items()}
    weights["lm_head.weight"] = tiny.module.get_output_embeddings().weight
    model.load_state_dict(weights)
    return model


def _random(tokenizer: Any) -> Any:
    config = T.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
    )
    return T.Qwen2ForCausalLM(config).eval()


@torch.no_grad()
def _activations(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """``[L]``: the norm of each layer's activation at the last position."""
    states = model(ids, output_hidden_states=True).hidden_states
    return torch.stack([state[0, -1].norm() for state in (*states[1:-1], states[-2])])


def _calibration(tiny: AudioLanguageModel, count: int) -> dict[str, Any]:
    pairs = [{"harmful": p.harmful.question, "safe": p.safe.question} for p in sarsteer.load_pairs("sarsteer-tiny")]
    pairs = pairs[:count]

    def written(request: str, text: str) -> str:
        messages = [{"role": "user", "content": f"{request}\n{text}"}]
        template = tiny.tokenizer.chat_template or tiny.processor.chat_template
        prompt: str = tiny.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return prompt

    return {
        "pairs": pairs,
        "plain": [written(p["harmful"], INSTRUCTION) for p in pairs],
        "prompted": [written(p["harmful"], INSTRUCTION + REFUSAL_PROMPT) for p in pairs],
        "safe": [written(p["safe"], INSTRUCTION) for p in pairs],
    }
