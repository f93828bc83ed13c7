"""Run vLLM's OpenAI server as a process of ours: checked beforehand, in a group of its own, errors in one line."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.vllm.settings import Settings, from_environment
from sarsteer.vllm.versions import check_version

_OURS = re.compile(r"sarsteer\.errors\.\w+: (?P<message>.+)$")
_GRACE_SECONDS = 20.0


def serving_environment(base: Mapping[str, str], chosen: Mapping[str, str | None]) -> dict[str, str]:
    """The server's environment; where it names vLLM's plugins, it names this one.

    Args:
        base: the caller's environment; its ``SARSTEER_*`` settings count where ``chosen`` has None.
        chosen: settings by their variable.

    """
    environment = {**base, **{name: value for name, value in chosen.items() if value is not None}}
    plugins = environment.get("VLLM_PLUGINS")
    if plugins is not None and "sarsteer" not in plugins.split(","):
        environment["VLLM_PLUGINS"] = ",".join([*filter(None, plugins.split(",")), "sarsteer"])
    return environment


def check_before_start(model: str, environment: Mapping[str, str]) -> Settings:
    """What can be told before half a minute of starting: the version, the settings, and a local model's weights.

    Raises:
        SteeringError, ArtifactError: in one line, what is wrong.

    """
    check_version()
    settings = from_environment(environment)
    if settings is None:
        raise SteeringError("there is nothing to steer with; give --steering FILE")
    from sarsteer.vllm.checkpoint import checkpoint_folder

    try:
        folder = checkpoint_folder(model)
    except ArtifactError:
        return settings  # vLLM will fetch it, and every worker will check it
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    text = config.get_text_config(decoder=True)
    first = settings.sets[0]
    if (text.num_hidden_layers, text.hidden_size) != (first.layers, first.width):
        raise ArtifactError(
            f"{first.source}: has {first.layers} layers of width {first.width}, {model} {text.num_hidden_layers} of "
            f"{text.hidden_size}; calibrate this model"
        )
    return settings


def server_command(model: str, options: Sequence[str]) -> list[str]:
    """How this installation starts vLLM's server: its builds for CPUs have no ``vllm`` package for ``vllm serve``."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *options]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, *options]


def run_server(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run until the server ends; a signal to us is passed on to its whole group. Returns its exit code.

    Raises:
        SteeringError: the server ended by an error of ours.

    """
    process = subprocess.Popen(
        list(command),
        env=dict(environment),
        start_new_session=True,
        stdout=subprocess.PIPE,  # vLLM logs its errors to either
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    told: list[str] = []
    readers = [
        threading.Thread(target=_pass_on, args=(stream, shown, told), daemon=True)
        for stream, shown in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for reader in readers:
        reader.start()
    deadline: list[float] = []

    def stop(number: int, _frame: object) -> None:
        deadline.append(time.monotonic() + _GRACE_SECONDS)
        _signal_group(process.pid, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while process.poll() is None and not (deadline and time.monotonic() > deadline[0]):
            time.sleep(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _signal_group(process.pid, signal.SIGKILL)  # engine cores and workers that outlived the server
        process.wait()
    for reader in readers:
        reader.join(timeout=2.0)
    if deadline:
        return 0
    if told:
        raise SteeringError(told[0])
    return process.returncode


def _pass_on(stream: IO[str], shown: IO[str], told: list[str]) -> None:
    """Show the server's own words, and keep what our part of it said."""
    for line in stream:
        shown.write(line)
        shown.flush()
        match = _OURS.search(line)
        if match is not None:
            told.append(match["message"].strip())


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
