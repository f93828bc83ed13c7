"""``sarsteer doctor``: installed packages, hardware, what can be used, and whether a model can be steered."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.output import console, print_json, quiet_transformers
from sarsteer.cli.tables import print_facts

_PACKAGES = ("sarsteer", "torch", "transformers", "tokenizers", "safetensors", "soundfile", "soxr", "numpy")
_FOR_DEVELOPERS = "dev"
_USES = {
    "calibrate, respond, layers, threshold, drift": (),
    "evaluate, reproduce": ("eval",),
    "tune": ("tune",),
    "serve --engine transformers": ("server",),
    "serve, calibrate --engine vllm": ("vllm",),
    "pairs, models behind an API": ("api",),
    "speak": ("tts",),
    "pictures (--plot)": ("plot",),
    "image and video requests": ("vision",),
    "Voxtral": ("voxtral",),
    "Qwen-Audio": ("qwen-audio",),
    "models with adapters": ("peft",),
}
"""What a user wants to do, and the extras that it needs."""


def doctor(
    model: Annotated[str | None, typer.Argument(help="Also load this model, and check that it can be steered.")] = None,
    device: options.Device = None,
    layers: options.Layers = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Check the installation and, optionally, a model.

    Prints a verdict for each use, with the command that installs what is missing. Exits with 2 if the model cannot be
    steered.
    """
    facts = _installation()
    if model is not None:
        facts["model"] = _check_model(model, device, layers, trust_remote_code)
    if as_json:
        print_json(facts)
        return
    rows = [("python", facts["python"]), *facts["packages"].items(), ("devices", ", ".join(facts["devices"]))]
    for name, missing in facts["extras"].items():
        rows.append((f"extra {name}", f"missing: {', '.join(missing)}" if missing else "installed"))
    rows += [(f"model {name}", str(value)) for name, value in facts.get("model", {}).items()]
    print_facts(rows)
    console.print()
    print_facts([(use, verdict) for use, verdict in facts["uses"].items()])
    if model is not None:
        console.print(f"\n{model}: ready, steering is proven", highlight=False, markup=False, soft_wrap=True)


def _installation() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        gpus.append("mps")
    extras = {name: _missing(name) for name in _extras()}
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [*gpus, f"cpu ({torch.get_num_threads()} threads)"],
        "extras": extras,
        "uses": {use: _verdict(needed, extras, bool(gpus)) for use, needed in _USES.items()},
    }


def _extras() -> list[str]:
    names = importlib.metadata.metadata("sarsteer").get_all("Provides-Extra") or []
    return sorted(name for name in names if name != _FOR_DEVELOPERS)


def _missing(extra: str) -> list[str]:
    """The packages of ``extra`` that are not installed, or have another version than it needs."""
    from packaging.requirements import Requirement

    missing = []
    for text in importlib.metadata.requires("sarsteer") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if requirement.name != "sarsteer-small" or not _small_is_in_the_clone():
                missing.append(requirement.name)
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                missing.append(f"{requirement.name}{requirement.specifier} (installed: {version})")
    return missing


def _small_is_in_the_clone() -> bool:
    from sarsteer.small.checkpoint import TRAINED

    return TRAINED.is_file()


def _verdict(needed: tuple[str, ...], extras: dict[str, list[str]], has_gpu: bool) -> str:
    if "eval" in needed and sys.version_info < (3, 11):
        return "not ready: needs Python 3.11 or newer"
    if "vllm" in needed and sys.platform != "linux":
        return "not ready: vLLM needs Linux"
    if absent := [name for name in needed if extras.get(name)]:
        return f"not ready: pip install 'sarsteer[{','.join(absent)}]'"
    return "ready" if needed or has_gpu else "ready, on the CPU: a model of several billion parameters needs a GPU"


def _check_model(name: str, device: str | None, layers: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """Load the model, and prove that hooks steer it."""
    quiet_transformers()
    import torch

    from sarsteer.models.loading import load_model
    from sarsteer.steering.handle import attach
    from sarsteer.steering.strength import ResolvedStrength

    model = load_model(name, device=device, layers=layers, trust_remote_code=trust_remote_code)
    vectors = torch.ones(len(model.decoder_layers), model.hidden_size)
    attach(model.module, model.decoder_layers, ResolvedStrength(vectors, 0.0)).remove()
    return {
        "name": model.name,
        "family": model.family.name,
        "architecture": model.fingerprint.architecture,
        "decoder layers": len(model.decoder_layers),
        "hidden size": model.hidden_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "steering": "proven on a prefill and a decode step",
    }
