"""Load Qwen-Audio: its remote code, adapted to transformers 5, with our own reader of its tokens."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

from sarsteer.errors import ModelError
from sarsteer.models.families.qwen_audio.compat import adapted, importable
from sarsteer.models.families.qwen_audio.tokens import QwenTokens
from sarsteer.models.loading import Loaded


def load(source: str, config: Any, *, revision: str | None = None, **options: Any) -> Loaded:
    """Module, tokens and report of a Qwen-Audio checkpoint; see ``loading.load_with_transformers``."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.utils import cached_file

    if not isinstance(getattr(config, "audio", None), dict):
        raise ModelError(f"{source}: is the text-only Qwen, which takes no audio; use Qwen/Qwen-Audio-Chat")
    if not options.pop("trust_remote_code", False):
        raise ModelError(f"{source}: consists of Python code; read it, then set trust_remote_code=True")
    vocabulary = cached_file(source, "qwen.tiktoken", revision=revision)
    processor = QwenTokens(vocabulary, audio_start=config.audio["audio_start_id"])
    with importable():
        remote = get_class_from_dynamic_module(config.auto_map["AutoModelForCausalLM"], source, revision=revision)
    config = copy.deepcopy(config)
    config.bf16, config.fp16, config.fp32 = False, False, True  # transformers sets the dtype, not its constructor
    config.use_flash_attn = config.use_cache_quantization = config.use_cache_kernel = False
    model_class = adapted(remote)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a path
        module, report = model_class.from_pretrained(
            source, config=config, revision=revision, output_loading_info=True, **options
        )
    return module, processor, report
