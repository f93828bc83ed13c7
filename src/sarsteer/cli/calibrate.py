"""``sarsteer calibrate``: pairs in, a steering file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sarsteer.cli.output import check_out, console, errors, print_json, progress_bar, quiet_transformers
from sarsteer.errors import SarsteerError


def calibrate(
    model: Annotated[str, typer.Argument(help="sarsteer-tiny, a folder, or a name on the Hugging Face Hub.")],
    pairs: Annotated[
        str,
        typer.Option(
            "--pairs", help="Manifest (JSONL) of clips and safe twins, figstep@train:FOLDER, or sarsteer-tiny."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Steering file to write (.safetensors).")],
    instruction: Annotated[str | None, typer.Option(help="Text beside each clip; the paper's by default.")] = None,
    refusal_prompt: Annotated[str | None, typer.Option(help="Appended to it; the paper's by default.")] = None,
    target_fpr: Annotated[
        float, typer.Option(help="Share of held-out safe clips that may open the gate, above 0 and below 1.")
    ] = 0.05,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many pairs.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Pairs a step; lower it when memory runs out.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; a GPU where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the checkpoint's own Python code.")] = False,
    layers: Annotated[str | None, typer.Option(help="Path of the decoder layers, where not found.")] = None,
    engine: Annotated[str, typer.Option(help="Where the model runs: transformers, or vllm.")] = "transformers",
    overwrite: Annotated[bool, typer.Option(help="Replace the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Draw refusal vectors and the safe subspace from pairs of clips, and fit a gate.

    A run that was killed goes on where it was when started again with the same settings.
    """
    check_out(out, overwrite=overwrite)
    if not 0 < target_fpr < 1:  # before a large model is loaded
        raise SarsteerError(f"--target-fpr must be above 0 and below 1, not {target_fpr}")
    from sarsteer.data.pairs import load_pairs

    chosen = load_pairs(pairs, "calibration")[:limit]
    quiet_transformers()
    from sarsteer.models.loading import load_model
    from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
    from sarsteer.steering.calibration import calibrate as run
    from sarsteer.steering.diagnostics import findings
    from sarsteer.steering.gate.report import summary

    if engine == "vllm":
        if device or layers or trust_remote_code:
            raise SarsteerError("--device, --layers and --trust-remote-code belong to --engine transformers")
        from sarsteer.vllm.activations import VllmActivations

        loaded: Any = VllmActivations(model, dtype=dtype, revision=revision)
    elif engine == "transformers":
        loaded = load_model(
            model, device=device, dtype=dtype, revision=revision, layers=layers, trust_remote_code=trust_remote_code
        )
    else:
        raise SarsteerError(f"unknown engine {engine!r}; use transformers or vllm")
    checkpoint = out.with_name(f"{out.name}.partial")
    with progress_bar() as report:
        steering = run(
            loaded,
            chosen,
            refusal_prompt=REFUSAL_PROMPT if refusal_prompt is None else refusal_prompt,
            instruction=INSTRUCTION if instruction is None else instruction,
            target_fpr=target_fpr,
            batch_size=batch_size,
            checkpoint=checkpoint,
            progress=lambda done, total: report("Calibrating", done, total),
        )
    steering.save(out)
    checkpoint.unlink(missing_ok=True)
    notes = findings(steering.report())
    gate = summary(steering.gate) if steering.gate is not None else None
    if as_json:
        print_json(
            {
                "file": str(out),
                "digest": steering.digest,
                "findings": notes,
                "gate": gate,
                "metadata": steering.metadata,
            }
        )
        return
    console.print(
        f"[bold]{out}[/]: {len(chosen)} pairs, {steering.refusal.shape[0]} layers. See it: sarsteer show {out}"
    )
    if gate is not None:
        console.print(f"gate: {gate}. Use it with --gate", highlight=False)
    else:
        errors.print(f"[yellow]note:[/] no gate: {steering.metadata['no_gate']}", highlight=False)
    for note in notes:
        errors.print(f"[yellow]note:[/] {note}")
