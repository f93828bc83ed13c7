"""``sarsteer serve``: a steered model behind an OpenAI-compatible server, in transformers or in vLLM."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.output import errors, note, quiet_transformers
from sarsteer.cli.serve_vllm import serve_with_vllm
from sarsteer.errors import MissingExtraError, SarsteerError

_ONLY = {
    "transformers": (
        "policy", "api_key_file", "refusal_text", "audit_log", "audit_content", "batch_size", "queue",
        "max_tokens", "max_temperature", "max_body_mib", "max_clip_seconds", "drain_seconds", "device", "layers",
        "split_long_audio",
    ),
    "vllm": ("allow_override", "ignore_override", "allow_request"),
}  # fmt: skip
"""Options that only one engine has."""


def serve(
    context: typer.Context,
    model: options.Model,
    steering: Annotated[
        str | None,
        typer.Option(help="Steering file. vLLM also takes NAME=FILE,NAME2=FILE2; requests choose one by name."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="transformers or vllm. Default: vllm if it is installed.")] = None,
    alpha: options.Alpha = None,
    k: options.K = None,
    lambda_: options.Lambda = None,
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="Steer only requests that the gate opens for; the file's default."),
    ] = None,
    allow_other_model: Annotated[
        bool, typer.Option(help="Start even if the weights differ, as in a quantized copy.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1; vLLM's: all.")] = None,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    served_model_name: Annotated[str | None, typer.Option(help="What requests call the model.")] = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    policy: Annotated[
        Path | None, typer.Option(help="transformers: YAML file of tenants, instead of --steering; see docs/server.md.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="transformers: API keys, one per line. Also: SARSTEER_API_KEY.")
    ] = None,
    shadow: Annotated[bool, typer.Option(help="Answer undefended, and only record what the gate decides.")] = False,
    refusal_text: Annotated[
        str | None, typer.Option(help="transformers: the answer to requests for which the gate opens.")
    ] = None,
    audit_log: Annotated[
        Path | None, typer.Option(help="transformers: JSON line per request, without content.")
    ] = None,
    audit_content: Annotated[bool, typer.Option(help="transformers: include texts in the audit log.")] = False,
    batch_size: Annotated[int | None, typer.Option(help="transformers: answers at once. Default: 16.", min=1)] = None,
    queue: Annotated[
        int | None, typer.Option(help="transformers: requests that may wait; more get HTTP 429. Default: 64.", min=1)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="transformers: longest answer in tokens. Default: 512.", min=1)
    ] = None,
    max_temperature: Annotated[
        float | None, typer.Option(help="transformers: highest temperature. Default: 1.", min=0, max=2)
    ] = None,
    max_body_mib: Annotated[
        int | None, typer.Option(help="transformers: largest request in MiB. Default: 16.", min=1)
    ] = None,
    max_clip_seconds: Annotated[
        float | None, typer.Option(help="transformers: longest clip in seconds. Default: 120.", min=0.1)
    ] = None,
    drain_seconds: Annotated[
        int | None, typer.Option(help="transformers: time for running requests after SIGTERM. Default: 120.", min=0)
    ] = None,
    device: options.Device = None,
    layers: options.Layers = None,
    split_long_audio: Annotated[
        bool, typer.Option(help="transformers: split clips that are longer than the model's window.")
    ] = False,
    allow_override: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="vllm: let requests choose alpha within these bounds.")
    ] = None,
    ignore_override: Annotated[
        bool, typer.Option(help="vllm: answer a request with a forbidden override at --alpha, not with HTTP 400.")
    ] = False,
    allow_request: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="vllm: refused options of requests and routes to allow, such as logit_bias,/v1/completions.",
        ),
    ] = None,
) -> None:
    """Serve a model so that no request is answered unsteered.

    With --engine vllm, all other options are passed to vLLM: --tensor-parallel-size 2 ...
    """
    if engine is None:
        engine = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    if engine not in _ONLY:
        raise SarsteerError(f"unknown engine {engine!r}; use transformers or vllm")
    other = "vllm" if engine == "transformers" else "transformers"
    for name in _ONLY[other]:
        if _given(context, name):
            raise SarsteerError(
                f"--{name.replace('_', '-')} needs --engine {other}; leave it out, or choose that engine"
            )
    for name, value in (("--alpha", alpha), ("--lambda", lambda_)):
        if value is not None and not math.isfinite(value):
            raise SarsteerError(f"{name} must be a finite number, not {value}")
    if engine == "vllm":
        if steering is None:
            raise SarsteerError("no steering file; give --steering FILE")
        passed = list(context.args)
        for flag, text in (
            ("--host", host),
            ("--port", str(port)),
            ("--served-model-name", served_model_name),
            ("--dtype", dtype),
            ("--revision", revision),
        ):
            passed += [] if text is None else [flag, text]
        passed += ["--trust-remote-code"] if trust_remote_code else []
        serve_with_vllm(
            model,
            passed,
            steering=steering,
            alpha=alpha,
            k=k,
            lambda_=lambda_,
            gate=gate,
            shadow=shadow,
            allow_override=allow_override,
            ignore_override=ignore_override,
            allow_request=allow_request,
            allow_other_model=allow_other_model,
        )
        return
    if context.args:
        raise SarsteerError(f"unknown option {context.args[0]!r}; see sarsteer serve --help")
    if (steering is None) == (policy is None):
        raise SarsteerError("give either --steering FILE or --policy FILE; nothing is served undefended")
    if policy is not None:
        for name in ("alpha", "k", "lambda_", "gate", "shadow", "refusal_text", "api_key_file"):
            if _given(context, name):
                flag = name.strip("_").replace("_", "-")
                raise SarsteerError(
                    f"--{flag} and --policy contradict each other; set it for each tenant in the policy"
                )
    for needed in ("fastapi", "uvicorn", "prometheus_client", "yaml"):
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError("sarsteer serve", "server")
    quiet_transformers()
    from sarsteer.models.loading import load_model
    from sarsteer.server.auth import KEY_VARIABLE, key_from_environment, read_key_file
    from sarsteer.server.limits import MIB, Limits
    from sarsteer.server.policy import Policy, read_policy, single_tenant
    from sarsteer.server.run import serve as run
    from sarsteer.server.service import ServerSettings
    from sarsteer.steering.strength import Strength

    def current_policy() -> Policy:
        if policy is not None:
            return read_policy(policy)
        keys = [] if api_key_file is None else read_key_file(api_key_file)
        own = key_from_environment(KEY_VARIABLE)
        assert steering is not None
        strength = Strength(alpha, k, lambda_, gate=gate)
        return single_tenant(
            steering, strength, [*keys, *([own] if own else [])], shadow=shadow, refusal_text=refusal_text
        )

    chosen: dict[str, Any] = {
        "batch": batch_size,
        "queue": queue,
        "tokens": max_tokens,
        "temperature": max_temperature,
        "body_bytes": None if max_body_mib is None else max_body_mib * MIB,
        "clip_seconds": max_clip_seconds,
    }
    settings = ServerSettings(
        model_name=served_model_name or model,
        load_model=lambda: load_model(
            model,
            device=device,
            dtype=dtype,
            revision=revision,
            layers=layers,
            trust_remote_code=trust_remote_code,
            split_long_audio=split_long_audio,
        ),
        read_policy=current_policy,
        limits=Limits(**{name: value for name, value in chosen.items() if value is not None}),
        audit_log=audit_log,
        audit_content=audit_content,
        allow_other_model=allow_other_model,
    )
    if shadow:
        note("shadow mode: requests are answered undefended")
    run(
        settings,
        host or "127.0.0.1",
        port,
        drain_seconds=120 if drain_seconds is None else drain_seconds,
        announce=lambda line: errors.print(line, highlight=False, markup=False, soft_wrap=True),
    )


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
