"""Write the language model as a folder that the training reads: ``python -m training.small.prepare``."""

from __future__ import annotations

from typing import Any

from sarsteer.small.source import load_text_model
from training.small.settings import LANGUAGE_MODEL


def original() -> tuple[Any, Any]:
    """The makers' language model, unchanged, in float32, and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    text = load_text_model()
    sizes = {key: value for key, value in text.config.items() if key not in ("model_type", "architectures")}
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, "tie_word_embeddings": True})).eval()
    model.model.load_state_dict(text.weights)
    model.tie_weights()
    return model, text.tokenizer


def main() -> None:
    if (LANGUAGE_MODEL / "model.safetensors").exists():
        return
    LANGUAGE_MODEL.mkdir(parents=True, exist_ok=True)
    model, tok = original()
    tok.save_pretrained(LANGUAGE_MODEL)
    model.half().save_pretrained(LANGUAGE_MODEL)


if __name__ == "__main__":
    main()
