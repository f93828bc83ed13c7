"""``sarsteer respond``: one request, one answer, steered where a steering file is given."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sarsteer.cli.output import console, errors, print_json, quiet_transformers
from sarsteer.errors import SarsteerError


def respond(
    model: Annotated[
        str, typer.Argument(help="sarsteer-tiny, a folder, a name on the Hugging Face Hub, or openai/NAME.")
    ],
    audio: Annotated[list[str] | None, typer.Option("--audio", help="A clip: a file or a URL. Repeatable.")] = None,
    image: Annotated[list[str] | None, typer.Option("--image", help="An image file. Repeatable.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Text after the clips; the steering's instruction by default.")
    ] = None,
    steering: Annotated[Path | None, typer.Option("--steering", help="Steering file; undefended without.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Steering strength; the file's own by default.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Principal components to ablate.", min=0)] = None,
    lambda_: Annotated[float | None, typer.Option("--lambda", help="Ablation coefficient.")] = None,
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="Steer only what the file's gate takes for harmful; as the file says."),
    ] = None,
    undefended: Annotated[bool, typer.Option("--undefended", help="Show the undefended answer beside it.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 256,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; a GPU where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the checkpoint's own Python code.")] = False,
    layers: Annotated[str | None, typer.Option(help="Path of the decoder layers, where not found.")] = None,
    allow_other_model: Annotated[
        bool, typer.Option(help="Steer though the weights differ, as in a quantised copy.")
    ] = False,
    split_long_audio: Annotated[
        bool, typer.Option(help="Cut clips longer than the model's window into parts, instead of refusing them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Answer one request: clips, images, and a text."""
    if steering is None and any(option is not None for option in (alpha, k, lambda_, gate)):
        raise SarsteerError("--alpha, --k, --lambda and --gate need --steering FILE; nothing was answered unsteered")
    for name, value in (("--alpha", alpha), ("--lambda", lambda_)):
        if value is not None and not math.isfinite(value):
            raise SarsteerError(f"{name} must be a finite number, not {value}")
    if not audio and not image and text is None:
        raise SarsteerError("there is nothing to answer; give --audio FILE, --image FILE or --text TEXT")
    from sarsteer.audio import load_clip

    # a bad clip is told before a large model is loaded
    parts: list[dict[str, Any]] = [{"type": "audio", "audio": load_clip(clip)} for clip in audio or ()]
    parts += [{"type": "image", "path": path} for path in image or ()]
    quiet_transformers()
    from sarsteer.models.base import AudioLanguageModel
    from sarsteer.models.loading import open_model
    from sarsteer.prompts import INSTRUCTION
    from sarsteer.steering.artifact import Steering

    artifact = Steering.load(steering) if steering is not None else None
    if artifact is not None:
        artifact.vectors(k, lambda_)
        artifact.choose_gate(gate)
    own_text = artifact.metadata["instruction"] if artifact is not None else INSTRUCTION
    text = own_text if text is None else text
    if artifact is not None and artifact.choose_gate(gate) is not None and text != own_text:
        errors.print(
            f"[yellow]note:[/] the gate was fitted beside the text {own_text!r}; beside another it may be wrong",
            highlight=False,
        )
    loaded = open_model(
        model,
        device=device,
        dtype=dtype,
        revision=revision,
        layers=layers,
        trust_remote_code=trust_remote_code,
        split_long_audio=split_long_audio,
    )
    request = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    answers: dict[str, Any] = {}
    decided = None
    if not isinstance(loaded, AudioLanguageModel):
        if artifact is not None:
            loaded.check_steerable()
        answers["undefended"] = loaded.generate([request], max_new_tokens)[0]
    else:
        prompts = loaded.prepare([request])
        if artifact is None or undefended:
            answers["undefended"] = loaded.generate(prompts, max_new_tokens)[0]
        if artifact is not None:
            with artifact.on(loaded, alpha, k, lambda_, gate=gate, allow_other_model=allow_other_model) as handle:
                answers["defended"] = loaded.generate(prompts, max_new_tokens)[0]
                answers["alpha"] = handle.alpha
                decided = handle.decisions[0] if handle.gate is not None else None
                answers["gate"] = None if decided is None else asdict(decided)
    if as_json:
        digest = artifact.digest if artifact is not None else None
        print_json({"audio": audio, "image": image, "text": text, "model": loaded.name, "steering": digest, **answers})
        return
    if decided is not None:
        why = "unlike the calibration" if decided.out_of_distribution else f"score {decided.score:.2f}"
        errors.print(f"[dim]gate: {why}, steered at alpha {decided.strength:.3g}[/]", highlight=False)
    if ("defended" in answers) != ("undefended" in answers):
        print(answers.get("defended", answers.get("undefended")))
        return
    console.print(f"[dim]undefended[/]  {answers['undefended']}", highlight=False)
    console.print(f"[dim]defended  [/]  {answers['defended']}", highlight=False)
