"""Run vLLM's OpenAI server as a subprocess: checked before the start, in its own process group, errors in one line."""

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
from sarsteer.vllm.settings import ServerSettings, from_environment
from sarsteer.vllm.versions import check_version

_LOGGED_ERROR = re.compile(r"sarsteer\.errors\.\w+: (?P<message>.+)$")
_GRACE_SECONDS = 20.0

MIDDLEWARE = "sarsteer.vllm.required.Steering"
"""vLLM imports it, and exits if that fails. Importing it here would fail: this process is not steered."""


def server_environment(base: Mapping[str, str], options: Mapping[str, str | None]) -> dict[str, str]:
    """The server's environment. If ``VLLM_PLUGINS`` is set, sarsteer is added to it.

    Args:
        base: the caller's environment, with its ``SARSTEER_*`` settings.
        options: variables to set; None keeps the caller's.

    """
    environment = {**base, **{name: value for name, value in options.items() if value is not None}}
    plugins = environment.get("VLLM_PLUGINS")
    if plugins is not None and "sarsteer" not in plugins.split(","):
        environment["VLLM_PLUGINS"] = ",".join([*filter(None, plugins.split(",")), "sarsteer"])
    return environment


def check_before_start(model: str, environment: Mapping[str, str]) -> ServerSettings:
    """Check what needs no running server: vLLM's version, the settings, and the shape of a model on this machine.

    Raises:
        SteeringError, ArtifactError: what is wrong, in one line.

    """
    check_version()
    settings = from_environment(environment)
    if settings is None:
        raise SteeringError("no steering file; give --steering FILE")
    from sarsteer.models.checkpoint import checkpoint_folder

    try:
        folder = checkpoint_folder(model)
    except ArtifactError:
        return settings  # vLLM will download it, and every worker will check it
    import transformers

    text = transformers.AutoConfig.from_pretrained(folder).get_text_config(decoder=True)
    settings.check_shape(model, text.num_hidden_layers, text.hidden_size)
    return settings


def server_command(model: str, options: Sequence[str]) -> list[str]:
    """The command that starts vLLM's server, which exits if it does not load sarsteer's plugin.

    CPU builds have no ``vllm`` package, and so no ``vllm serve``.
    """
    options = [*options, "--middleware", MIDDLEWARE]
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *options]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, *options]


def run_server(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the server until it exits, and return its exit code. Signals are passed on to its whole process group.

    Raises:
        SteeringError: the server exited with an error of sarsteer's.

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
    messages: list[str] = []
    readers = [
        threading.Thread(target=_relay, args=(stream, output, messages), daemon=True)
        for stream, output in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for reader in readers:
        reader.start()
    deadline: list[float] = []

    def stop(number: int, _frame: object) -> None:
        deadline.append(time.monotonic() + _GRACE_SECONDS)
        _signal_group(process.pid, number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while process.poll() is None and not (deadline and time.monotonic() > deadline[0]):
            time.sleep(0.2)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _signal_group(process.pid, signal.SIGKILL)  # engine cores and workers that outlived the server
        process.wait()
    for reader in readers:
        reader.join(timeout=2.0)
    if deadline:
        return 0
    if messages:
        raise SteeringError(messages[0])
    return process.returncode


def _relay(stream: IO[str], output: IO[str], messages: list[str]) -> None:
    """Copy the server's output, and collect the messages of sarsteer's errors in it."""
    for line in stream:
        output.write(line)
        output.flush()
        match = _LOGGED_ERROR.search(line)
        if match is not None:
            messages.append(match["message"].strip())


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
