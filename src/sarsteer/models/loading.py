"""Load a model by name or path, with its processor, ready to be steered."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import ModelError, did_you_mean
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.device import choose_device, to_device
from sarsteer.models.family import family_named
from sarsteer.models.interface import API_PREFIX, LanguageModel
from sarsteer.models.packaged import PACKAGED, read_origin
from sarsteer.models.transcribers import refuse_transcriber

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
        name_or_path: ``"sarsteer-small"`` (built once, see ``docs/small.md``), ``"sarsteer-tiny"`` (embedded), a
            folder, or a name on the Hugging Face Hub.
        device: such as ``"cuda"``; by default the GPU if there is one. Leave it out with ``device_map``.
        dtype: such as ``"bfloat16"``; by default the checkpoint's, and for the packaged models the fastest here.
        revision: branch, tag or commit on the Hub.
        layers: dotted path to the decoder layers, if they are not found.
        trust_remote_code: run Python code from the checkpoint.
        split_long_audio: split clips that are longer than the model's window, instead of refusing them.
        options: passed to ``from_pretrained`` (``device_map``, ``quantization_config``, ``attn_implementation``, ...).

    Raises:
        ModelError: there is no such model or device, it only transcribes, parts of the model are missing, or its
            weights are incomplete.

    """
    import transformers
    from safetensors import SafetensorError

    name = os.fspath(name_or_path)
    if name.startswith(API_PREFIX):
        raise ModelError(
            f"{name} answers over an API: it can be defended by a prompt, not calibrated or steered; "
            f"in Python, use sarsteer.ApiModel({name!r})"
        )
    if not name.strip():
        raise ModelError(f"{name!r} is not the name of a model; give {', '.join(PACKAGED)}, a folder or a Hub name")
    if device is not None and "device_map" in options:
        raise ModelError("device and device_map contradict each other; pass one of them")
    target = choose_device(device)  # checked before the weights are read
    packaged = PACKAGED.get(name)
    source = name if packaged is None else str(packaged.folder())
    if dtype is None and packaged is not None:
        dtype = packaged.dtype(device)
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **common)
        for architecture in getattr(config, "architectures", None) or ():
            refuse_transcriber(name, architecture)
        load = _load_function(config)
        module, processor, report = load(source, config, dtype=_dtype(dtype), **common, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(_explain(name, error)) from error
    _check_complete(name, module, report)
    if "device_map" not in options:
        module = to_device(module, target, name)
    model = AudioLanguageModel(
        module, processor, name=name, revision=revision, layers=layers, split_long_audio=split_long_audio
    )
    model.origin = read_origin(source)
    return model


def open_model(name_or_path: str | os.PathLike[str], **options: Any) -> LanguageModel:
    """Any model that answers: an ``ApiModel`` for names that begin with ``openai/``, else as ``load_model``.

    An ``ApiModel`` gets the options that concern its server: ``base_url``, ``timeout``, ``budget``, ``per_minute``.
    """
    name = os.fspath(name_or_path)
    if not name.startswith(API_PREFIX):
        return load_model(name, **options)
    from sarsteer.models.api.model import ApiModel

    server = {key: options.pop(key) for key in ("base_url", "timeout", "budget", "per_minute") if key in options}
    if unused := sorted(key for key, value in options.items() if value):
        raise ModelError(f"{name} answers over an API and has no {', '.join(unused)}; leave them out")
    return ApiModel(name, **server)


Loaded = tuple[Any, Any, dict[str, Any]]
"""The module, its processor, and transformers' report of the weights."""


def _load_function(config: Any) -> Callable[..., Loaded]:
    """The family's function, or ``load_with_transformers``."""
    for architecture in getattr(config, "architectures", None) or ():
        family = family_named(architecture)
        if family is not None and family.load is not None:
            return family.load
    return load_with_transformers


def load_with_transformers(source: str, config: Any, **options: Any) -> Loaded:
    """Module, processor and report of a checkpoint that transformers loads.

    Args:
        source: a folder, or a name on the Hub.
        config: its configuration.
        options: passed to ``from_pretrained``; ``revision`` and ``trust_remote_code`` also to the processor's.

    """
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
        value = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(value, torch.dtype) or not value.is_floating_point:
            raise ModelError(f"unknown dtype {dtype!r}; use float32, bfloat16 or float16")
        return value
    return dtype


def _check_complete(name: str, module: Any, report: dict[str, Any]) -> None:
    """Refuse a model with missing weights: transformers fills them with random numbers."""
    missing = sorted(report.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in report.get("mismatched_keys") or ())
    if missing or mismatched:
        examples = ", ".join([*missing, *mismatched][:3])
        raise ModelError(
            f"{name}: {len(missing) + len(mismatched)} weights are missing or have another shape ({examples}, ...), "
            "and would be random; use a version of transformers that supports this checkpoint"
        )


def _explain(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).is_file():
        kind = "a steering file goes with --steering" if name.endswith(".safetensors") else "it is not a checkpoint"
        return f"{name}: is a file, and {kind}; give a folder that save_pretrained wrote, or a name on the Hub"
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return f"{name}: is a folder without config.json; give a folder that save_pretrained wrote"
    if "trust_remote_code" in str(error):
        return f"{name}: contains Python code; read it, then set trust_remote_code=True (--trust-remote-code)"
    if isinstance(error, OSError) and not Path(name).exists():
        return (
            f"unknown model {name!r}: neither part of sarsteer ({', '.join(PACKAGED)}), nor a folder, nor "
            "found on the Hub; check the name, your network, HF_TOKEN and HF_HUB_OFFLINE" + did_you_mean(name, PACKAGED)
        )
    return f"{name}: cannot be loaded ({reason})"
