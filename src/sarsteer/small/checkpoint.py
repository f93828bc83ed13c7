"""Write ``sarsteer-small`` as an ordinary checkpoint: config, weights, tokenizer, processor, model card."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sarsteer.small.design import (
    AUDIO,
    AUDIO_BEGIN,
    AUDIO_END,
    CHUNK_SECONDS,
    HOP,
    MELS,
    RATE,
    TEMPLATE,
    WINDOW,
    model_config,
)
from sarsteer.small.language_model import Report
from sarsteer.small.source import load_text_model
from sarsteer.small.weights import merge_lora, read_weights, state_dict

PACKAGE = Path(__file__).parent
WHEEL = "sarsteer_small"
"""The package that contains the weights where sarsteer was installed from a wheel: together they would exceed 20 MB."""


def _trained() -> Path:
    """The weights in a clone, or else those of the wheel ``sarsteer-small``, which is never imported."""
    clone = PACKAGE / "weights" / "trained.safetensors"
    spec = None if clone.is_file() else find_spec(WHEEL)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        if (file := Path(folder) / clone.name).is_file():
            return file
    return clone


TRAINED = _trained()
NOTICES = ("MODEL_CARD.md", "NOTICE.md")


def processor(tokenizer: Any) -> Any:
    """The ``Qwen2AudioProcessor``: spectrogram frames of 20 ms, a window of 60 s."""
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(
        feature_size=MELS, sampling_rate=RATE, hop_length=HOP, chunk_length=CHUNK_SECONDS, n_fft=WINDOW
    )
    tokenizer.padding_side = "left"
    return Qwen2AudioProcessor(
        extractor,
        tokenizer,
        chat_template=TEMPLATE,
        audio_token=AUDIO,
        audio_bos_token=AUDIO_BEGIN,
        audio_eos_token=AUDIO_END,
    )


def write_checkpoint(folder: Path, report: Report = lambda share: None, trained: Path = TRAINED) -> None:
    """Join language model and trained parts, and write the whole into ``folder``, which exists and is empty.

    Args:
        folder: where to write.
        report: takes the share that is done.
        trained: file with the encoder, the projector and the LoRA.

    Raises:
        ModelError: the language model is not to be had, or the trained parts are damaged.

    """
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    hearing, lora, encoder = read_weights(trained)
    text = load_text_model(lambda share: report(0.8 * share))
    merge_lora(text.weights, lora)
    token = text.tokenizer.convert_tokens_to_ids(AUDIO)
    config = model_config(text.config, int(token), encoder)
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.dtype = "float32"  # stored as float16 for its size
    save_file(
        state_dict(hearing, text.weights, text.config["num_hidden_layers"]),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    report(0.95)
    config.save_pretrained(folder)
    end = text.tokenizer.eos_token_id
    GenerationConfig(eos_token_id=end, pad_token_id=text.config["pad_token_id"], do_sample=False).save_pretrained(
        folder
    )
    processor(text.tokenizer).save_pretrained(folder)
    for notice in NOTICES:
        (folder / notice).write_text((PACKAGE / notice).read_text(encoding="utf-8"), encoding="utf-8")
    origin = {"language_model": text.origin, "hub_name": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    (folder / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    report(1.0)
