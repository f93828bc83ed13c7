"""Qwen-Omni: load the thinker alone.

The thinker hears, sees, and writes the answer; talker and vocoder only speak what it wrote. They are never steered, the
wrapper around them ignores ``max_new_tokens``, and leaving them out saves a fifth of the memory.
"""

from __future__ import annotations

from typing import Any

from sarsteer.models.loading import Loaded, load_with_transformers


def load_thinker(source: str, config: Any, **options: Any) -> Loaded:
    """The thinker of a Qwen-Omni checkpoint, with its processor."""
    import transformers

    (architecture, *_) = config.architectures
    thinker = architecture.replace("ForConditionalGeneration", "ThinkerForConditionalGeneration")
    if not hasattr(config, "thinker_config") or not hasattr(transformers, thinker):
        return load_with_transformers(source, config, **options)  # a checkpoint of the thinker alone
    model_class = getattr(transformers, thinker)
    module, report = model_class.from_pretrained(source, output_loading_info=True, **options)
    common = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    return module, transformers.AutoProcessor.from_pretrained(source, **common), report
