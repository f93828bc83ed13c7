"""``sarsteer doctor``: installed packages, hardware, and whether a model can be steered."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from typing import Annotated, Any

import typer
from rich.table import Table

from sarsteer.cli import options
from sarsteer.cli.output import console, print_json, quiet_transformers

_PACKAGES = ("sarsteer", "torch", "transformers", "tokenizers", "safetensors", "soundfile", "soxr", "numpy")
_EXTRAS = {"plot": ("matplotlib",), "tts": ("espeakng_loader",)}


def doctor(
    model: Annotated[str | None, typer.Argument(help="Also check this model: are its decoder layers found?")] = None,
    layers: options.Layers = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Check this installation and, optionally, a model. Exit with 2 if the model cannot be steered."""
    facts = _installation()
    if model is not None:
        facts["model"] = _check_model(model, layers, trust_remote_code)
    if as_json:
        print_json(facts)
        return
    table = Table(show_header=False, show_edge=False, pad_edge=False, box=None)
    table.add_row("python", facts["python"])
    for name, version in facts["packages"].items():
        table.add_row(name, version)
    table.add_row("devices", ", ".join(facts["devices"]))
    for name, installed in facts["extras"].items():
        status = "[green]installed[/]" if installed else f"[dim]pip install 'sarsteer[{name}]'[/]"
        table.add_row(f"extra {name}", status)
    for name, value in facts.get("model", {}).items():
        table.add_row(f"model {name}", str(value))
    console.print(table, highlight=False)


def _installation() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        gpus.append("mps")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [*gpus, f"cpu ({torch.get_num_threads()} threads)"],
        "extras": {
            name: all(importlib.util.find_spec(module) is not None for module in modules)
            for name, modules in _EXTRAS.items()
        },
    }


def _check_model(name: str, layers: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """Load the model, and prove that hooks steer it."""
    quiet_transformers()
    import torch

    from sarsteer.models.loading import load_model
    from sarsteer.steering.handle import attach
    from sarsteer.steering.strength import ResolvedStrength

    model = load_model(name, layers=layers, trust_remote_code=trust_remote_code)
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
