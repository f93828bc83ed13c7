"""``sarsteer serve``: a steered model behind an OpenAI-compatible server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sarsteer.cli.output import errors
from sarsteer.errors import MissingExtraError, SarsteerError


def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="sarsteer-small, sarsteer-tiny, a folder, or a name on the Hugging Face Hub.")
    ],
    steering: Annotated[
        str, typer.Option("--steering", help="Steering file, or NAME=FILE,NAME2=FILE2; requests choose one by name.")
    ],
    engine: Annotated[str, typer.Option(help="vllm.")] = "vllm",
    alpha: Annotated[float | None, typer.Option(help="Steering strength; the file's default.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Principal components to ablate.", min=0)] = None,
    lambda_: Annotated[float | None, typer.Option("--lambda", help="Ablation coefficient.")] = None,
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="Steer only requests that the gate opens for; the file's default."),
    ] = None,
    allow_override: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Let requests choose alpha within these bounds.")
    ] = None,
    ignore_override: Annotated[
        bool, typer.Option(help="Answer a request with a forbidden override at --alpha, instead of with HTTP 400.")
    ] = False,
    allow_request: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Options of requests and routes that are refused by default, such as logit_bias,/v1/completions.",
        ),
    ] = None,
    allow_other_model: Annotated[
        bool, typer.Option(help="Start even if the weights differ, as in a quantized copy.")
    ] = False,
) -> None:
    """Serve a model so that no request is answered unsteered.

    All other options are passed to vLLM: --port 8000 --tensor-parallel-size 2 ...
    """
    if engine != "vllm":
        raise SarsteerError(f"unknown engine {engine!r}; use vllm")
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
        "SARSTEER_GATE": None if gate is None else "on" if gate else "off",
        "SARSTEER_ALLOW_OVERRIDE": allow_override,
        "SARSTEER_REFUSED_OVERRIDE": "ignore" if ignore_override else None,
        "SARSTEER_ALLOW_REQUEST": allow_request,
        "SARSTEER_ALLOW_OTHER_MODEL": "1" if allow_other_model else None,
    }
    environment = server_environment(os.environ, variables)
    options = list(context.args)
    if packaged := PACKAGED.get(model):
        model = str(packaged.folder())
        for name, value in (("--served-model-name", packaged.name), ("--dtype", packaged.dtype(None))):
            if not any(option == name or option.startswith(f"{name}=") for option in options):
                options += [name, value]
    settings = check_before_start(model, environment)
    for used in settings.sets:
        gated = "" if used.gate_layer is None else f", gate at layer {used.gate_layer}"
        _print(f"steering {used.name}: {used.source}, alpha {used.alpha:g}, k {used.k}, lambda {used.lambda_:g}{gated}")
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
