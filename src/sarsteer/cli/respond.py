"""``sarsteer respond``: answer one request, steered if a steering file is given."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.output import console, errors, note, print_json, quiet_transformers
from sarsteer.errors import SarsteerError

if TYPE_CHECKING:
    from sarsteer.steering.gate.gate import Decision
    from sarsteer.steering.strength import GateChoice, ResolvedStrength


def respond(
    model: options.AnyModel,
    audio: Annotated[list[str] | None, typer.Option("--audio", help="A clip: a file or a URL. Repeatable.")] = None,
    image: Annotated[list[str] | None, typer.Option("--image", help="An image file. Repeatable.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Text after the clips. Default: the steering file's instruction.")
    ] = None,
    steering: Annotated[
        Path | None, typer.Option("--steering", help="Steering file. Without it, the model answers undefended.")
    ] = None,
    alpha: options.Alpha = None,
    k: options.K = None,
    lambda_: options.Lambda = None,
    gate: Annotated[
        bool | None,
        typer.Option(
            "--gate/--no-gate",
            help="Steer only requests that the gate detects as harmful. Default: the steering file's.",
        ),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Let the gate decide, and steer nothing: the answer is not defended.")
    ] = False,
    refusal: Annotated[
        str | None,
        typer.Option(
            "--refusal", metavar="TEXT", help="With the gate: the answer to requests that it detects as harmful."
        ),
    ] = None,
    undefended: Annotated[bool, typer.Option("--undefended", help="Also print the undefended answer.")] = False,
    max_new_tokens: options.MaxNewTokens = 256,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    layers: options.Layers = None,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Steer even if the weights differ, as in a quantized copy.")
    ] = False,
    split_long_audio: Annotated[
        bool,
        typer.Option(
            "--split-long-audio", help="Split clips that are longer than the model's window, instead of refusing them."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Answer one request, which consists of clips, images and a text.

    Prints the answer on standard output, and the alpha, k, lambda and gate that were used on standard error.
    """
    if steering is None and (shadow or any(value is not None for value in (alpha, k, lambda_, gate, refusal))):
        raise SarsteerError(
            "--alpha, --k, --lambda, --gate, --shadow and --refusal need --steering FILE; nothing was answered"
        )
    if refusal is not None and (shadow or gate is False):
        raise SarsteerError("--refusal needs a gate that steers; leave out --shadow and --no-gate")
    if refusal is not None and not refusal.strip():
        raise SarsteerError("--refusal is empty; give the text that answers harmful requests")
    if shadow and gate is False:
        raise SarsteerError("--shadow needs the gate; leave out --no-gate")
    choice: GateChoice = "shadow" if shadow else gate
    for name, value in (("--alpha", alpha), ("--lambda", lambda_)):
        if value is not None and not math.isfinite(value):
            raise SarsteerError(f"{name} must be a finite number, not {value}")
    if not audio and not image and not (text or "").strip():
        raise SarsteerError("nothing to answer; give --audio FILE, --image FILE or --text TEXT")
    from sarsteer.audio import load_clip

    # Clips are read first, so that a bad one is reported before a large model is loaded.
    parts: list[dict[str, Any]] = [{"type": "audio", "audio": load_clip(clip)} for clip in audio or ()]
    parts += [{"type": "image", "path": path} for path in image or ()]
    quiet_transformers()
    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.models.loading import load_model, open_model
    from sarsteer.prompts import INSTRUCTION
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.strength import Strength

    artifact = Steering.load(steering) if steering is not None else None
    instruction = artifact.metadata["instruction"] if artifact is not None else INSTRUCTION
    text = instruction if text is None else text
    strength = None
    if artifact is not None:
        strength = artifact.resolve(Strength(alpha, k, lambda_, gate=choice))
        if refusal is not None and (strength.gate is None or strength.shadow):
            raise SarsteerError(
                "--refusal needs a gate that steers, and the steering file's default has none; add --gate"
            )
        if strength.gate is not None and text != instruction:
            note(f"the gate was fitted beside the text {instruction!r}; its decisions beside another text may be wrong")
    loaded = (open_model if artifact is None else load_model)(
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
    decision = None
    if not isinstance(loaded, AudioLanguageModel):
        answers["undefended"] = loaded.generate([request], max_new_tokens)[0]
    else:
        prompts = loaded.prepare([request])
        if artifact is None or undefended:
            answers["undefended"] = loaded.generate(prompts, max_new_tokens)[0]
        if artifact is not None:
            if strength is not None and strength.shadow:
                note("shadow mode: the gate decides, and nothing is steered; this answer is NOT defended")
            with artifact.on(loaded, alpha, k, lambda_, gate=choice, allow_other_model=allow_other_model) as handle:
                kind = "shadow" if handle.strength.shadow else "defended"
                answers[kind] = loaded.generate(prompts, max_new_tokens)[0]
                answers |= {"alpha": handle.alpha, "k": handle.strength.k, "lambda": handle.strength.lambda_}
                decision = handle.decisions[0] if handle.gate is not None else None
                answers["gate"] = None if decision is None else asdict(decision)
            if refusal is not None and (decision is None or decision.harmful):  # undecided: not known to be safe
                answers |= {"defended": refusal, "own_words": answers["defended"]}
    if as_json:
        digest = artifact.digest if artifact is not None else None
        print_json({"audio": audio, "image": image, "text": text, "model": loaded.name, "steering": digest, **answers})
        return
    if strength is not None:
        _explain(strength, decision, fixed="own_words" in answers)
    kinds = [kind for kind in ("undefended", "defended", "shadow") if kind in answers]
    if len(kinds) == 1:
        print(answers[kinds[0]])
        return
    for kind in kinds:
        console.print(f"[dim]{kind:<10}[/]  {answers[kind]}", highlight=False)


def _explain(strength: ResolvedStrength, decision: Decision | None, *, fixed: bool) -> None:
    """Print which strength was used, and what the gate decided."""
    from sarsteer.steering.strength import describe_layers

    gate = "no gate" if strength.gate is None else f"gate at layer {strength.gate.layer}"
    values = f"alpha {strength.alpha:g}, k {strength.k}, lambda {strength.lambda_:g}"
    errors.print(f"[dim]steering: {values}, {describe_layers(strength.layer_weights)}, {gate}[/]", highlight=False)
    if decision is not None:
        score = "unlike the calibration requests" if decision.out_of_distribution else f"score {decision.score:.2f}"
        if strength.shadow:
            outcome = "would steer it" if decision.opening else "would not steer it"
        else:
            outcome = f"steered at alpha {decision.strength:.3g}" if decision.strength else "not steered"
            outcome += ", answered with the fixed refusal" if fixed else ""
        errors.print(f"[dim]gate: {score}, {outcome}[/]", highlight=False)
