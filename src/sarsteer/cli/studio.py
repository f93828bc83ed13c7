"""``sarsteer studio``: try a defense in a browser."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from sarsteer.cli import options
from sarsteer.cli.output import errors, quiet_transformers
from sarsteer.errors import MissingExtraError

AUTH_VARIABLE = "SARSTEER_STUDIO_AUTH"


def studio(
    model: options.Model,
    steering: Annotated[Path, typer.Option(help="Steering file that visitors begin with.")],
    examples: Annotated[
        Path | None, typer.Option(help="Manifest of example clips. Default: three pairs of the built-in set.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results of an evaluation, or its folder, to show in the report's tab.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Beyond this machine, --auth is required.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)] = 7860,
    auth: Annotated[
        str | None, typer.Option(metavar="USER:PASSWORD", help=f"Ask for a password. Also: {AUTH_VARIABLE}.")
    ] = None,
    max_new_tokens: options.MaxNewTokens = 256,
    max_clip_seconds: Annotated[float, typer.Option(help="Longest clip in seconds.", min=0.1)] = 120.0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    layers: options.Layers = None,
    split_long_audio: Annotated[
        bool, typer.Option("--split-long-audio", help="Split clips that are longer than the model's window.")
    ] = False,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Start even if the weights differ, as in a quantized copy.")
    ] = False,
) -> None:
    """Open a page on which a model answers clips with and without the defense, side by side.

    Strength and gate can be changed while it runs, for each visitor on their own. Nothing is loaded from the network.
    """
    for needed in ("gradio", "uvicorn"):
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError("sarsteer studio", "studio")
    quiet_transformers()
    from sarsteer.evaluation.results import Evaluation, results_file
    from sarsteer.models.loading import load_model
    from sarsteer.server.limits import MIB, Limits
    from sarsteer.studio.choice import Artifact
    from sarsteer.studio.examples import example_items
    from sarsteer.studio.run import check_access, read_auth, serve
    from sarsteer.studio.worker import StudioSettings

    access = read_auth(auth or os.environ.get(AUTH_VARIABLE) or None)
    check_access(host, access)
    artifact = Artifact.load(steering)
    if results is not None:
        results = results_file(results)
        Evaluation.load(results)  # before the model is loaded
    settings = StudioSettings(
        model_name=model,
        load_model=lambda: load_model(
            model,
            device=device,
            dtype=dtype,
            revision=revision,
            layers=layers,
            trust_remote_code=trust_remote_code,
            split_long_audio=split_long_audio,
        ),
        artifact=artifact,
        limits=Limits(tokens=max_new_tokens, clip_seconds=max_clip_seconds, body_bytes=32 * MIB),
        allow_other_model=allow_other_model,
    )
    serve(
        settings,
        host,
        port,
        auth=access,
        examples=example_items(model, examples),
        results=results,
        announce=lambda line: errors.print(line, highlight=False, markup=False, soft_wrap=True),
    )
