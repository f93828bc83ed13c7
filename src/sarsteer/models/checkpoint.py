"""The fingerprint of a checkpoint, read from its files.

An engine such as vLLM fuses, shards and renames weights while loading them, so the model in memory cannot be compared
with the one that transformers loads. The files can: a few elements of every decoder weight are read from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from sarsteer.errors import ArtifactError
from sarsteer.models.family import family_named
from sarsteer.models.fingerprint import Fingerprint, fingerprint_of_weights

_LAYER = re.compile(r"^(?P<prefix>.*?)(?:layers|h|blocks)\.(?P<number>\d+)\.(?P<name>.+)$")
_OTHER_PARTS = ("audio", "vision", "visual", "image", "encoder", "talker", "tower", "token2wav", "mtp")
_BUFFERS = ("inv_freq",)


def checkpoint_folder(model: str, revision: str | None = None, cache: str | None = None) -> Path:
    """The folder with a model's files: the folder itself, or the Hub's cache. Nothing is downloaded.

    Raises:
        ArtifactError: the files are not on this machine.

    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            model, revision=revision, cache_dir=cache, local_files_only=True, allow_patterns=["*.safetensors", "*.json"]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ArtifactError(
            f"its files are not on this machine ({type(error).__name__}), so its weights cannot be checked against the "
            "steering; download it, or allow another model explicitly",
            place=model,
        ) from None
    return Path(folder)


def checkpoint_fingerprint(folder: Path, config: Any) -> Fingerprint:
    """The fingerprint of the decoder in ``folder``, equal to that of the model that transformers loads from it.

    Args:
        folder: folder with safetensors files.
        config: the checkpoint's configuration, as transformers reads it.

    Raises:
        ArtifactError: the folder has no safetensors weights, or the decoder is not found in them.

    """
    text = config.get_text_config(decoder=True)
    with ExitStack() as stack:
        tensors = _tensors(folder, stack)
        layers = _decoder(tensors, int(text.num_hidden_layers), folder)
        return fingerprint_of_weights(
            ({name: tensors[key] for name, key in names.items()} for names in layers),
            architecture=architecture_of(config),
            hidden_size=int(text.hidden_size),
            vocabulary=int(text.vocab_size),
        )


def architecture_of(config: Any) -> str:
    """The transformers class that a checkpoint names."""
    return str((getattr(config, "architectures", None) or ["none named"])[0])


def same_architecture(first: str, second: str) -> bool:
    """Whether two class names belong to one family, as an omni model and its thinker do."""
    family = family_named(first)
    return first == second or (family is not None and family is family_named(second))


class _Tensors(Mapping[str, torch.Tensor]):
    """Weights by their name in the checkpoint, memory-mapped and read on access."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self._files = files

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[key].get_tensor(key)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _tensors(folder: Path, stack: ExitStack) -> _Tensors:
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors"))
        files: dict[str, Any] = {}
        for name in names:
            opened = stack.enter_context(safe_open(folder / name, framework="pt"))
            files.update(dict.fromkeys(opened.keys(), opened))
    except (OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        raise ArtifactError(
            f"its weights cannot be read ({error}); download the model again", place=str(folder)
        ) from None
    if not files:
        raise ArtifactError(
            "has no safetensors weights, so they cannot be checked against the steering; convert the checkpoint, or "
            "allow another model explicitly",
            place=str(folder),
        )
    return _Tensors(files)


def _decoder(tensors: _Tensors, count: int, folder: Path) -> list[dict[str, str]]:
    """The keys of each decoder layer's weights, by their name within the layer."""
    groups: dict[str, dict[int, dict[str, str]]] = {}
    for key in tensors:
        match = _LAYER.match(key)
        if match is None or match["name"].endswith(_BUFFERS):
            continue
        if any(part in match["prefix"].lower() for part in _OTHER_PARTS):
            continue
        groups.setdefault(match["prefix"], {}).setdefault(int(match["number"]), {})[match["name"]] = key
    whole = [group for group in groups.values() if set(range(count)) <= set(group)]
    if len(whole) != 1:
        raise ArtifactError(
            f"{len(whole) or 'no'} groups of {count} layers in its weights look like the decoder, so they cannot be "
            "checked against the steering; allow another model explicitly",
            place=str(folder),
        )
    return [whole[0][number] for number in range(count)]
