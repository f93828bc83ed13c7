"""Load Kimi-Audio through ``kimia_infer``, Moonshot's package.

The package's constructor would load the weights itself, in transformers' own way, and keep quiet about missing ones. It
is given the module that ``kimi_compat`` loaded, whose report the caller sees.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sarsteer.errors import ModelError
from sarsteer.models.families.kimi_audio import KimiProcessor
from sarsteer.models.families.kimi_audio_compat import load_module

if TYPE_CHECKING:
    from sarsteer.models.loading import Loaded

_REPOSITORY = "https://github.com/MoonshotAI/Kimi-Audio"


def load(source: str, config: Any, **options: Any) -> Loaded:
    """The module, its ``kimia_infer`` object as processor, and what transformers reports of the weights.

    Raises:
        ModelError: the package is missing or cannot run here, or an option does not go with it.

    """
    api = _package()
    if "device_map" in options:
        raise ModelError("Kimi-Audio's package computes on one device; give device instead of device_map")
    revision = options.pop("revision", None)
    options.pop("trust_remote_code", None)  # without it the configuration would not have been read
    try:
        folder = source if os.path.isdir(source) else _download(source, revision)
        module, report = load_module(folder, **options)
        if report.get("missing_keys") or report.get("mismatched_keys"):
            return module, None, report  # the caller refuses it, before anything large is loaded beside it
        with _loaded_instead(api, module):
            kimi = api.KimiAudio(model_path=folder, load_detokenizer=False)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, AttributeError, TypeError, NameError) as error:
        raise ModelError(
            f"Kimi-Audio's code cannot run here ({_first_line(error)}); it needs a CUDA device, flash-attn and a "
            "version that fits transformers 5; or serve the model with vLLM, which has it built in"
        ) from error
    if kimi.alm is not module:
        raise ModelError(f"this kimia_infer loads its model in a way not known here; install that of {_REPOSITORY}")
    return module, KimiProcessor(kimi), report


def _package() -> Any:
    if importlib.util.find_spec("kimia_infer") is None:
        raise ModelError(
            f"Kimi-Audio runs through Moonshot's package kimia_infer: clone {_REPOSITORY} with its submodules, install "
            "its requirements.txt and put the clone on PYTHONPATH; or serve the model with vLLM, which has it built in"
        )
    try:
        return importlib.import_module("kimia_infer.api.kimia")
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"kimia_infer cannot be imported ({_first_line(error)}); install the requirements.txt of {_REPOSITORY}"
        ) from None


def _download(name: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, revision=revision))


@contextmanager
def _loaded_instead(api: Any, module: nn.Module) -> Iterator[None]:
    """Within the block, the package's constructor finds ``module`` where it would load one."""

    class Ready:
        @staticmethod
        def from_pretrained(*_args: Any, **_options: Any) -> nn.Module:
            return module

    theirs = getattr(api, "AutoModelForCausalLM", None)
    if theirs is None:
        raise ModelError(f"this kimia_infer loads its model in a way not known here; install that of {_REPOSITORY}")
    api.AutoModelForCausalLM = Ready
    try:
        yield
    finally:
        api.AutoModelForCausalLM = theirs


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
