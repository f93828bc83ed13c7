"""Load Kimi-Audio with ``kimia_infer``, Moonshot's package.

The package's constructor would load the weights itself and not report missing ones. It gets the module that ``compat``
loaded instead, whose report the caller checks.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sarsteer.errors import ModelError
from sarsteer.models.families.kimi_audio.compat import load_module
from sarsteer.models.families.kimi_audio.model import KimiProcessor
from sarsteer.models.loading import Loaded

_REPOSITORY = "https://github.com/MoonshotAI/Kimi-Audio"


def load(source: str, config: Any, **options: Any) -> Loaded:
    """The module, its ``kimia_infer`` object as processor, and transformers' report of the weights.

    Raises:
        ModelError: the package is missing or cannot run here, or an option is not supported.

    """
    api = _package()
    if "device_map" in options:
        raise ModelError("Kimi-Audio's package computes on one device; use device instead of device_map")
    revision = options.pop("revision", None)
    options.pop("trust_remote_code", None)  # it is set, or the configuration could not have been read
    try:
        folder = source if os.path.isdir(source) else _download(source, revision)
        module, report = load_module(folder, **options)
        if report.get("missing_keys") or report.get("mismatched_keys"):
            return module, None, report  # the caller refuses it, before anything else is loaded
        with _using(api, module):
            kimi = api.KimiAudio(model_path=folder, load_detokenizer=False)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, AttributeError, TypeError, NameError) as error:
        raise ModelError(
            f"Kimi-Audio's code cannot run here ({_first_line(error)}); it needs a CUDA device and flash-attn; "
            "or serve the model with vLLM, which supports it without them"
        ) from error
    if kimi.alm is not module:
        raise ModelError(f"this kimia_infer loads its model in an unknown way; install the one of {_REPOSITORY}")
    return module, KimiProcessor(kimi), report


def _package() -> Any:
    if importlib.util.find_spec("kimia_infer") is None:
        raise ModelError(
            f"Kimi-Audio needs Moonshot's package kimia_infer: clone {_REPOSITORY} with its submodules, install its "
            "requirements.txt and put the clone on PYTHONPATH; or serve the model with vLLM, which supports it"
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
def _using(api: Any, module: nn.Module) -> Iterator[None]:
    """Within the block, the package's constructor gets ``module`` when it loads a model."""

    class LoadedModel:
        @staticmethod
        def from_pretrained(*_args: Any, **_options: Any) -> nn.Module:
            return module

    original = getattr(api, "AutoModelForCausalLM", None)
    if original is None:
        raise ModelError(f"this kimia_infer loads its model in an unknown way; install the one of {_REPOSITORY}")
    api.AutoModelForCausalLM = LoadedModel
    try:
        yield
    finally:
        api.AutoModelForCausalLM = original


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
