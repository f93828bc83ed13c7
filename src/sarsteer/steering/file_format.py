"""The steering file: one safetensors file with tensors, and JSON metadata in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.files import atomic_path
from sarsteer.steering.gate.gate import Gate

FORMAT_VERSION, GATED_VERSION, LAYERED_VERSION = 1, 2, 3
"""Files with a gate or layer weights have version 2, files whose gate reads several layers version 3. A reader that
does not know them would steer every request in every layer at a strength chosen for some, or decide by one layer's part
of the score, so it must refuse the file. Other files stay readable by every version."""
FILE_NAME = "steering.safetensors"
TENSORS = ("refusal", "safe_basis", "singular_values", "safe_mean", "harmful_mean", "activation_norms")
_KEYS = ("format_version", "model", "fingerprint", "layers", "hidden_size", "instruction", "refusal_prompt", "pairs")


def version_of(metadata: Mapping[str, Any], gate: Gate | None) -> int:
    """The format version that a file with this content needs."""
    if gate is not None and gate.earlier:
        return LAYERED_VERSION
    plain = gate is None and "layer_weights" not in metadata.get("defaults", {})
    return FORMAT_VERSION if plain else GATED_VERSION


def write_file(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], gate: Gate | None
) -> Path:
    """Write one safetensors file, whole or not at all. The same content gives the same bytes."""
    from safetensors.torch import save_file

    target = Path(path)
    contents = {name: tensors[name].contiguous() for name in TENSORS}
    header = dict(metadata)
    if gate is not None:
        contents |= gate.tensors
        header["gate"] = gate.header
    with atomic_path(target) as temporary:
        save_file(contents, temporary, metadata={"sarsteer": json.dumps(header, sort_keys=True)})
    return target


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any], Gate | None]:
    """Tensors, metadata and gate of a file or of a folder with a ``steering.safetensors``.

    Raises:
        ArtifactError: the file is missing, damaged, or in another format.

    """
    from safetensors import SafetensorError, safe_open

    target = file_in(path)
    if not target.is_file():
        raise ArtifactError("no such steering file; create one with sarsteer calibrate", place=str(target))
    try:
        with safe_open(target, framework="pt") as file:
            header = (file.metadata() or {}).get("sarsteer")
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in TENSORS if name in names}
            gate_tensors = {name: file.get_tensor(name) for name in names if name.startswith("gate.")}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"is not a safetensors file or was truncated ({error}); copy it again, or run calibrate again",
            place=str(target),
        ) from None
    try:
        metadata = _parsed(header)
        if missing := [name for name in TENSORS if name not in tensors]:
            raise ArtifactError(f"{', '.join(missing)} missing; run calibrate again")
        gate = Gate.from_parts(metadata.pop("gate", None), gate_tensors) if _has_gate(metadata) else None
    except (ArtifactError, SteeringError) as error:
        raise ArtifactError(error.message, place=str(target)) from None
    return tensors, metadata, gate


def file_in(path: str | os.PathLike[str]) -> Path:
    """The steering file at ``path``: the file itself, or the one in a folder."""
    target = Path(path)
    return target / FILE_NAME if target.is_dir() else target


def _parsed(header: str | None) -> dict[str, Any]:
    if header is None:
        raise ArtifactError("is a safetensors file without steering; create one with sarsteer calibrate")
    try:
        metadata = json.loads(header)
    except json.JSONDecodeError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ArtifactError("its metadata is damaged; run calibrate again")
    version = metadata.get("format_version")
    if version not in (FORMAT_VERSION, GATED_VERSION, LAYERED_VERSION):
        raise ArtifactError(
            f"has format version {version}, this sarsteer reads {FORMAT_VERSION} to {LAYERED_VERSION}; "
            "use the sarsteer that wrote it, or run calibrate again"
        )
    if missing := [key for key in _KEYS if key not in metadata]:
        raise ArtifactError(f"its metadata lacks {', '.join(missing)}; run calibrate again")
    return metadata


def _has_gate(metadata: Mapping[str, Any]) -> bool:
    """Version 2 means a gate, unless the file has only layer weights. A lost gate is then an error, not no gate."""
    only_weights = "gate" not in metadata and "layer_weights" in metadata.get("defaults", {})
    version = metadata["format_version"]
    return bool(version == LAYERED_VERSION or (version == GATED_VERSION and not only_weights))
