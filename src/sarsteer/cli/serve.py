"""``sarsteer serve``: a steered model behind an OpenAI-compatible server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sarsteer.cli.output import errors
from sarsteer.errors import MissingExtraError, SarsteerError


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="sarsteer-tiny, a folder, or a name on the Hugging Face Hub.")],
    steering: Annotated[
        str, typer.Option("--steering", help="Steering file; or NAME=FILE,NAME2=FILE2, chosen by request.")
    ],
    engine: Annotated[str, typer.Option(help="vllm.")] = "vllm",
    alpha: Annotated[float | None, typer.Option(help="Steering strength; the file's own by default.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Principal components to ablate.", min=0)] = None,
    lambda_: Annotated[float | None, typer.Option("--lambda", help="Ablation coefficient.")] = None,
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="Steer only what the file's gate takes for harmful; as the file says."),
    ] = None,
    allow_override: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Let requests choose alpha within these bounds.")
    ] = None,
    ignore_override: Annotated[
        bool, typer.Option(help="Answer a request that asks for more than it may at --alpha, instead of HTTP 400.")
    ] = False,
    allow_other_model: Annotated[
        bool, typer.Option(help="Start though the weights differ, as in a quantised copy.")
    ] = False,
) -> None:
    """Serve a model so that no request is answered unsteered.

    Options that are not listed go to vLLM as they are: --port 8000 --tensor-parallel-size 2 ...
    """
    if engine != "vllm":
        raise SarsteerError(f"unknown engine {engine!r}; use vllm")
    from sarsteer import tiny
    from sarsteer.vllm.serving import check_before_start, run_server, server_command, serving_environment
    from sarsteer.vllm.settings import read_steering
    from sarsteer.vllm.versions import vllm_version

    try:
        vllm_version()
    except MissingExtraError:
        raise MissingExtraError("sarsteer serve --engine vllm", "vllm") from None
    chosen = {
        "SARSTEER_STEERING": steering,
        "SARSTEER_ALPHA": _text(alpha),
        "SARSTEER_K": _text(k),
        "SARSTEER_LAMBDA": _text(lambda_),
        "SARSTEER_GATE": None if gate is None else "on" if gate else "off",
        "SARSTEER_ALLOW_OVERRIDE": allow_override,
        "SARSTEER_REFUSED_OVERRIDE": "ignore" if ignore_override else None,
        "SARSTEER_ALLOW_OTHER_MODEL": "1" if allow_other_model else None,
    }
    environment = serving_environment(os.environ, chosen)
    options = list(context.args)
    if model == tiny.NAME:
        model = str(tiny.model_folder())
        for name, value in (("--served-model-name", tiny.NAME), ("--dtype", "float32")):
            if not any(option == name or option.startswith(f"{name}=") for option in options):
                options += [name, value]
    settings = check_before_start(model, environment)
    for one in settings.sets:
        errors.print(
            f"steering {one.name}: {one.source}, alpha {one.alpha:g}, k {one.k}, lambda {one.lambda_:g}"
            + (f", gate at layer {one.gate_layer}" if one.gate_layer is not None else ""),
            highlight=False,
            markup=False,
        )
        if one.gate_layer is not None:
            instruction = read_steering(one.source).metadata["instruction"]
            errors.print(
                f"note: that gate was fitted beside the text {instruction!r}; beside another it may be wrong",
                highlight=False,
                markup=False,
            )
    code = run_server(server_command(model, options), environment)
    if code:
        raise SarsteerError(f"vLLM ended with exit code {code}; its own words are above")


def _text(value: float | None) -> str | None:
    return None if value is None else repr(value)
