"""Load a model by name or path, with its processor, ready to be steered."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer import tiny
from sarsteer.errors import ModelError
from sarsteer.models.base import AudioLanguageModel
from sarsteer.models.families.registry import family_named
from sarsteer.models.interface import API_PREFIX, LanguageModel

if TYPE_CHECKING:
    import torch


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    layers: str | None = None,
    trust_remote_code: bool = False,
    split_long_audio: bool = False,
    **options: Any,
) -> AudioLanguageModel:
    """Load an audio-language model.

    Args:
        name_or_path: ``"sarsteer-tiny"`` (embedded, offline), a folder, or a name on the Hugging Face Hub.
        device: such as ``"cuda"``; by default the GPU where there is one. Leave it out with ``device_map``.
        dtype: such as ``"bfloat16"``; by default the checkpoint's own.
        revision: branch, tag or commit on the Hub.
        layers: dotted path to the decoder layers, where they are not found.
        trust_remote_code: run the checkpoint's own Python code.
        split_long_audio: cut clips that are longer than the model's window, instead of refusing them.
        options: passed to ``from_pretrained`` (``device_map``, ``quantization_config``, ``attn_implementation``, ...).

    Raises:
        ModelError: there is no such model, its parts are missing, or its weights are incomplete.

    """
    import torch
    import transformers
    from safetensors import SafetensorError

    name = os.fspath(name_or_path)
    if name.startswith(API_PREFIX):
        raise ModelError(
            f"{name} answers over an API: it can be defended by a prompt, not calibrated or steered; "
            f"in Python, make it with sarsteer.ApiModel({name!r})"
        )
    source = str(tiny.model_folder()) if name == tiny.NAME else name
    if dtype is None and name == tiny.NAME:
        dtype = torch.float32  # stored as float16 for its size, meant to run in float32
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **common)
        load = _loader(config)
        module, processor, report = load(source, config, dtype=_dtype(dtype), **common, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(_explain(name, error)) from error
    _check_complete(name, module, report)
    if "device_map" not in options:
        module = module.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    elif device is not None:
        raise ModelError("give either device or device_map, not both")
    return AudioLanguageModel(
        module, processor, name=name, revision=revision, layers=layers, split_long_audio=split_long_audio
    )


def open_model(name_or_path: str | os.PathLike[str], **options: Any) -> LanguageModel:
    """Any model that answers: one behind an API where the name begins with ``openai/``, else as ``load_model``."""
    name = os.fspath(name_or_path)
    if not name.startswith(API_PREFIX):
        return load_model(name, **options)
    from sarsteer.models.api.model import ApiModel

    if given := sorted(key for key, value in options.items() if value):
        raise ModelError(f"{name} answers over an API and takes no {', '.join(given)}")
    return ApiModel(name)


Loaded = tuple[Any, Any, dict[str, Any]]
"""The module, its processor, and what transformers reports of the weights."""


def _loader(config: Any) -> Callable[..., Loaded]:
    """The family's own loader, or transformers' classes."""
    for architecture in getattr(config, "architectures", None) or ():
        family = family_named(architecture)
        if family is not None and family.loader is not None:
            home, _, function = family.loader.partition(":")
            loader: Callable[..., Loaded] = getattr(importlib.import_module(home), function)
            return loader
    return load_with_transformers


def load_with_transformers(source: str, config: Any, **options: Any) -> Loaded:
    """Module, processor and report of a checkpoint that transformers loads by itself."""
    import transformers

    model_class = _model_class(config, bool(options.get("trust_remote_code")))
    module, report = model_class.from_pretrained(source, output_loading_info=True, **options)
    common = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    return module, transformers.AutoProcessor.from_pretrained(source, **common), report


def _model_class(config: Any, trust_remote_code: bool) -> Any:
    """The class that the checkpoint names: the Auto classes reject some families (Audio Flamingo 3)."""
    import transformers

    for architecture in getattr(config, "architectures", None) or ():
        if hasattr(transformers, architecture):
            return getattr(transformers, architecture)
    if trust_remote_code:
        return transformers.AutoModelForCausalLM
    named = ", ".join(getattr(config, "architectures", None) or ["none named"])
    raise ValueError(f"transformers {transformers.__version__} has no class for it ({named})")


def _dtype(dtype: Any) -> Any:
    import torch

    if dtype is None or dtype == "auto":
        return "auto"
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ModelError(f"unknown dtype {dtype!r}; use float32, bfloat16 or float16")
        return found
    return dtype


def _check_complete(name: str, module: Any, report: dict[str, Any]) -> None:
    """Refuse a model with made-up weights: transformers fills what is missing with random numbers."""
    missing = sorted(report.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in report.get("mismatched_keys") or ())
    if missing or mismatched:
        some = ", ".join([*missing, *mismatched][:3])
        raise ModelError(
            f"{name}: {len(missing) + len(mismatched)} weights are missing or of another shape ({some}, ...), "
            "and would be random; the checkpoint does not fit this version of transformers"
        )


def _explain(name: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return f"{name}: is a folder without config.json; give a folder that save_pretrained wrote"
    if "trust_remote_code" in str(error):
        return f"{name}: brings Python code of its own; read it, then give trust_remote_code=True (--trust-remote-code)"
    if isinstance(error, OSError) and not Path(name).exists():
        return (
            f"unknown model {name!r}: neither embedded ({tiny.NAME}), nor a folder, nor reachable on the Hub; "
            "check the name, your network, HF_TOKEN and HF_HUB_OFFLINE"
        )
    return f"{name}: cannot be loaded ({first})"
