"""``sarsteer serve --engine vllm``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sarsteer.cli.output import errors
from sarsteer.errors import MissingExtraError, SarsteerError


def serve_with_vllm(
    model: str,
    passed: Sequence[str],
    *,
    steering: str,
    alpha: float | None,
    k: int | None,
    lambda_: float | None,
    gate: bool | None,
    shadow: bool,
    allow_override: str | None,
    ignore_override: bool,
    allow_request: str | None,
    allow_other_model: bool,
) -> None:
    """Run vLLM's server until it ends; ``passed`` are its own options."""
    if shadow and gate is False:
        raise SarsteerError("--shadow needs the gate; leave out --no-gate")
    from sarsteer.models.packaged import PACKAGED
    from sarsteer.vllm.frontend.server import check_before_start, run_server, server_command, server_environment
    from sarsteer.vllm.settings import read_steering
    from sarsteer.vllm.versions import vllm_version

    try:
        vllm_version()
    except MissingExtraError:
        raise MissingExtraError("sarsteer serve --engine vllm", "vllm") from None
    variables = {
        "SARSTEER_STEERING": steering,
        "SARSTEER_ALPHA": _text(alpha),
        "SARSTEER_K": _text(k),
        "SARSTEER_LAMBDA": _text(lambda_),
        "SARSTEER_GATE": "shadow" if shadow else None if gate is None else "on" if gate else "off",
        "SARSTEER_ALLOW_OVERRIDE": allow_override,
        "SARSTEER_REFUSED_OVERRIDE": "ignore" if ignore_override else None,
        "SARSTEER_ALLOW_REQUEST": allow_request,
        "SARSTEER_ALLOW_OTHER_MODEL": "1" if allow_other_model else None,
    }
    environment = server_environment(os.environ, variables)
    options = list(passed)
    if packaged := PACKAGED.get(model):
        model = str(packaged.folder())
        for name, value in (("--served-model-name", packaged.name), ("--dtype", packaged.dtype(None))):
            if not any(option == name or option.startswith(f"{name}=") for option in options):
                options += [name, value]
    settings = check_before_start(model, environment)
    for used in settings.sets:
        gated = "" if used.gate_layer is None else f", gate at layer {used.gate_layer}"
        _print(f"steering {used.name}: {used.source}, alpha {used.alpha:g}, k {used.k}, lambda {used.lambda_:g}{gated}")
        if used.shadow:
            _print("WARNING: shadow mode: the gate decides and nothing is steered; requests are NOT defended")
        if used.gate_layer is not None:
            instruction = read_steering(used.source).metadata["instruction"]
            _print(f"note: that gate was fitted with the text {instruction!r}; with another text it may be wrong")
    code = run_server(server_command(model, options), environment)
    if code:
        raise SarsteerError(f"vLLM exited with code {code}; see its output above")


def _print(text: str) -> None:
    errors.print(text, highlight=False, markup=False)


def _text(value: float | None) -> str | None:
    return None if value is None else repr(value)
