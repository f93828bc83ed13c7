"""``sarsteer calibrate``: read pairs, write a steering file."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sarsteer.cli import options
from sarsteer.cli.output import check_out, console, note, print_json, progress_bar, quiet_transformers
from sarsteer.errors import SarsteerError
from sarsteer.files import exclusive

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item
    from sarsteer.data.pairs import Pairs
    from sarsteer.models.activation_source import ActivationSource
    from sarsteer.steering.artifact import Steering


def calibrate(
    model: options.Model,
    pairs: Annotated[
        str,
        typer.Option(
            "--pairs",
            help="sarsteer-pairs, a manifest (JSONL) of clips and safe twins, figstep@train:FOLDER, or sarsteer-tiny.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Steering file to write (.safetensors).")],
    benign: Annotated[
        str | None,
        typer.Option(
            "--benign",
            help="Safe requests without a twin, for the gate: a manifest, a benchmark, sarsteer-pairs or none. "
            "Default: the everyday requests and other speech of sarsteer-pairs if the pairs are from there.",
        ),
    ] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            help="Audio transform, such as noise:snr=10 (sarsteer attack --help lists them); repeatable. The requests "
            "are calibrated on unchanged or under one of the transforms, in turn, so that the gate knows them.",
            metavar="SPEC",
        ),
    ] = None,
    voices: options.Voices = None,
    instruction: Annotated[
        str | None, typer.Option(help="Text after each clip in the prompt. Default: the paper's.")
    ] = None,
    refusal_prompt: Annotated[
        str | None, typer.Option(help="Refusal prompt, appended to the instruction. Default: the paper's.")
    ] = None,
    target_fpr: Annotated[
        float, typer.Option(help="Share of held-out safe requests that may open the gate, between 0 and 1.")
    ] = 0.05,
    audio_root: options.AudioRoot = None,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first N pairs and benign requests.", min=1, metavar="N")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Pairs per step. Lower it if memory runs out.", min=1)] = 16,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    layers: options.Layers = None,
    engine: Annotated[str, typer.Option(help="Engine that runs the model: transformers or vllm.")] = "transformers",
    push: Annotated[
        float | None,
        typer.Option(
            help="Default strength as a share of the activations' norm, such as 0.05. Default: the paper's alpha."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Answer a few of the pairs' requests with the default strength, and lower it if it breaks them.",
        ),
    ] = True,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", help="Keep sums in memory and activations on disk: memory does not grow with the pairs."
        ),
    ] = False,
    rank: Annotated[
        int | None, typer.Option(help="With --stream: columns of the sketch of second moments. Default: 64.", min=1)
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Compute refusal vectors and the safe subspace from pairs of clips, and fit a gate.

    The built-in set, sarsteer-pairs, is English; it is spoken on first use and kept in ~/.cache/sarsteer.

    A run that was interrupted resumes when the same command is run again.
    """
    check_out(out, overwrite=overwrite)
    if not 0 < target_fpr < 1:  # before a large model is loaded
        raise SarsteerError(f"--target-fpr must be above 0 and below 1, not {target_fpr}")
    if push is not None and not (math.isfinite(push) and push > 0):
        raise SarsteerError(f"--push must be a number above 0, such as 0.05, not {push}")
    if engine not in ("transformers", "vllm"):
        raise SarsteerError(f"unknown engine {engine!r}; use transformers or vllm")
    if rank is not None and not stream:
        raise SarsteerError("--rank needs --stream: without it, activations are kept and nothing is sketched")
    from sarsteer.data.pairs import load_benign, load_pairs
    from sarsteer.data.sarsteer_pairs import NAME

    spoken = options.voice_list(voices, pairs, benign)
    chosen_pairs = load_pairs(
        pairs, "calibration", voices=spoken if pairs == NAME else None, audio_root=audio_root, limit=limit
    )
    others = benign or (NAME if pairs == NAME else "none")
    benign_items = (
        []
        if others == "none"
        else load_benign(
            others, "calibration", voices=spoken if others == NAME else None, audio_root=audio_root, limit=limit
        )
    )
    if augment:
        chosen_pairs, benign_items = _augmented(chosen_pairs, benign_items, augment)
    quiet_transformers()
    from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
    from sarsteer.steering.calibration import calibrate as run
    from sarsteer.steering.diagnostics import findings
    from sarsteer.steering.gate.report import summary

    with exclusive(out):
        source = _load(
            model, "vllm" if engine == "vllm" else "transformers", device, dtype, revision, layers, trust_remote_code
        )
        checkpoint = out.with_name(f"{out.name}.activations" if stream else f"{out.name}.partial")
        with progress_bar() as report:
            arguments: dict[str, Any] = {
                "benign": benign_items,
                "sources": {
                    "pairs": pairs,
                    **({"benign": others} if benign_items else {}),
                    **({"augment": " ".join(augment)} if augment else {}),
                },
                "refusal_prompt": REFUSAL_PROMPT if refusal_prompt is None else refusal_prompt,
                "instruction": INSTRUCTION if instruction is None else instruction,
                "target_fpr": target_fpr,
                "batch_size": batch_size,
                "progress": lambda done, total: report("Calibrating", done, total),
                "gate_progress": lambda done, total: report("Fitting the gate", done, total),
            }
            if stream:
                from sarsteer.steering.pooled.artifact import RANK, calibrate_streaming

                steering = calibrate_streaming(
                    source, chosen_pairs, folder=checkpoint, rank=RANK if rank is None else rank, **arguments
                )
            else:
                steering = run(source, chosen_pairs, checkpoint=checkpoint, **arguments)
        if push is not None:
            from sarsteer.steering.push import alpha_of
            from sarsteer.steering.strength import Strength

            steering = steering.with_defaults(alpha=float(f"{alpha_of(steering, push, Strength()):.3g}"))
        steering, lowered = _checked(source, steering, chosen_pairs) if check else (steering, None)
        steering.save(out)
        shutil.rmtree(checkpoint) if stream else checkpoint.unlink(missing_ok=True)
    notes = findings(steering.report())
    gate = summary(steering.gate) if steering.gate is not None else None
    if as_json:
        print_json(
            {
                "file": str(out),
                "digest": steering.digest,
                "findings": [*notes, *([lowered] if lowered is not None else [])],
                "gate": gate,
                "metadata": steering.metadata,
            }
        )
        return
    console.print(
        f"[bold]{out}[/]: {len(chosen_pairs)} pairs, {len(benign_items)} benign requests, "
        f"{steering.refusal.shape[0]} layers. Show it: sarsteer show {out}",
        highlight=False,
        soft_wrap=True,
    )
    if gate is not None:
        console.print(f"gate: {gate}. Use it with --gate", highlight=False)
    else:
        note(f"no gate: {steering.metadata['no_gate']}")
    for finding in notes:
        note(finding)
    if lowered is not None:
        note(lowered)


def _augmented(pairs: Pairs, benign: list[Item], specs: list[str]) -> tuple[Pairs, list[Item]]:
    from sarsteer.attacks.augment import augmented, augmented_pairs, parse_transforms
    from sarsteer.files import cache_folder

    transforms, folder = parse_transforms(specs), cache_folder() / "augmented"
    return augmented_pairs(pairs, transforms, folder), augmented(benign, transforms, folder)


def _checked(source: Any, steering: Steering, pairs: Pairs) -> tuple[Steering, str | None]:
    """The steering with a default strength that does not break answers, and what was changed."""
    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.runtime.collapse import check_default

    if not isinstance(source, AudioLanguageModel):  # vLLM's workers return activations only
        return steering, None
    checks = check_default(source, steering, pairs)
    if len(checks) == 1:
        return steering, None
    first, last = checks[0], checks[-1]
    text = (
        f"alpha {first.alpha:g} breaks {first.collapsed} of {first.answers} answers to the pairs' own requests; the "
        f"default is {last.alpha:g}, which breaks {last.collapsed}"
    )
    lowered = steering.with_defaults(alpha=last.alpha)
    return replace(lowered, metadata={**lowered.metadata, "collapse_check": [asdict(one) for one in checks]}), text


def _load(
    model: str,
    engine: str,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    layers: str | None,
    trust_remote_code: bool,
) -> ActivationSource:
    if engine == "transformers":
        from sarsteer.models.loading import load_model

        return load_model(
            model, device=device, dtype=dtype, revision=revision, layers=layers, trust_remote_code=trust_remote_code
        )
    if device or layers or trust_remote_code:
        raise SarsteerError("--device, --layers and --trust-remote-code need --engine transformers")
    from sarsteer.vllm.calibration.activation_source import VllmActivationSource

    return VllmActivationSource(model, dtype=dtype, revision=revision)
