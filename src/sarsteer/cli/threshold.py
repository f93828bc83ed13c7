"""``sarsteer threshold``: a threshold with a stated error rate, from the user's own safe traffic."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sarsteer.cli import options
from sarsteer.cli.output import check_out, console, note, print_json, progress_bar, quiet_transformers
from sarsteer.errors import SarsteerError

if TYPE_CHECKING:
    from sarsteer.data.manifest import Item
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.gate.gate import Gate


def threshold(
    file: Annotated[Path, typer.Argument(help="Steering file with a gate.")],
    benign: Annotated[
        Path,
        typer.Option(
            "--benign",
            help="Safe requests (JSON Lines): a manifest of clips or texts, or a log of decisions with their scores.",
        ),
    ],
    max_refused: Annotated[
        list[str] | None,
        typer.Option(
            "--max-refused", metavar="RATE", help="Largest share that may be refused: 1%, or GROUP=1%. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write. Default: NAME-threshold.safetensors beside FILE.")
    ] = None,
    no_limit: Annotated[
        bool, typer.Option("--no-limit", help="Remove the distance limit, beyond which every request is steered.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The calibrated model, for a manifest. Default: the steering file's.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="Text beside each request without one. Default: the steering file's.")
    ] = None,
    audio_root: options.AudioRoot = None,
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    layers: options.Layers = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Set the gate's threshold so that at most a stated share of safe requests is refused.

    By split-conformal prediction on requests that took no part in calibration; docs/gate.md states what is assumed. A
    rate of 1 % needs at least 99 requests. No harmful request is needed.
    """
    from sarsteer.data.requests import request_numbers
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.gate.log import has_scores, read_scores
    from sarsteer.steering.gate.reference import with_traffic

    rates = _rates(max_refused or ["1%"])
    steering = Steering.load(file)
    target = file.with_name(f"{file.stem}-threshold.safetensors") if out is None else out
    check_out(target, overwrite=overwrite)
    gate = steering.choose_gate(True)
    assert gate is not None
    if no_limit:
        gate = gate.with_limit(None)
    requests: tuple[int, ...] | None = None
    if has_scores(benign):
        rows = read_scores(benign)
        scores, groups = [], [row.group for row in rows]
        for row in rows:
            far = row.out_of_distribution if row.distance is None or gate.limit is None else row.distance > gate.limit
            scores.append(math.inf if far and gate.limit is not None else row.score)
    else:
        items = _safe_items(benign, audio_root)
        scores = _scores(
            steering, gate, items, model, instruction, batch_size, device, dtype, revision, trust_remote_code, layers
        )
        groups = [str(item.extra.get("group") or "all") for item in items]
        requests = request_numbers([(item,) for item in items])  # one in several voices counts once
    moved = with_traffic(gate, scores, groups, rates, requests=requests, source=benign.name)
    updated = steering.with_gate(moved)
    updated.save(target)
    held_out = moved.metadata.get("held_out", {}).get("harmful", [])
    opens = sum(score > moved.threshold for score in held_out)
    if as_json:
        print_json(
            {
                "file": str(target),
                "digest": updated.digest,
                "threshold": moved.threshold,
                "before": gate.threshold,
                "stated": [asdict(rate) for rate in moved.stated],
                "harmful_held_out": {"opens": opens, "n": len(held_out)},
            }
        )
        return
    for rate in moved.stated:
        group = "" if rate.group == "all" else f" of the group {rate.group}"
        console.print(
            f"at most {100 * rate.max_refused:g} % of safe requests{group} like these {rate.n} are refused: threshold "
            f"{rate.threshold:.3g}",
            highlight=False,
        )
    console.print(f"threshold {moved.threshold:.3g}, before {gate.threshold:.3g}", highlight=False)
    if held_out:
        console.print(
            f"opens for {opens} of {len(held_out)} held-out harmful clips of calibration "
            f"({100 * opens / len(held_out):.0f} %)",
            highlight=False,
        )
    console.print(f"[bold]{target}[/]", highlight=False, soft_wrap=True)
    if not steering.gate_by_default:
        note("the gate is off by default in this file; use it with --gate")


def _safe_items(manifest: Path, audio_root: Path | None) -> list[Item]:
    from sarsteer.data.manifest import load_items

    items = load_items(manifest, audio_root=audio_root)
    harmful = [item.id for item in items if item.harmful]
    if harmful:
        raise SarsteerError(
            f"{len(harmful)} requests are harmful, such as {harmful[0]!r}; give safe requests only", place=str(manifest)
        )
    return items


def _scores(
    steering: Steering,
    gate: Gate,
    items: list[Item],
    model: str | None,
    instruction: str | None,
    batch_size: int,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    layers: str | None,
) -> list[float]:
    """The gate's scores of requests; infinity beyond its limit."""
    quiet_transformers()
    from sarsteer.data.manifest import place_errors
    from sarsteer.models.loading import load_model

    fitted = steering.metadata["instruction"]
    text = fitted if instruction is None else instruction
    if text != fitted:
        note(f"the gate was fitted beside the text {fitted!r}; beside another text it separates worse")
    loaded = load_model(
        model or steering.metadata["model"]["name"],
        device=device,
        dtype=dtype,
        revision=revision,
        layers=layers,
        trust_remote_code=trust_remote_code,
    )
    steering.check_model(loaded.fingerprint)
    scores: list[float] = []
    with progress_bar() as report:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            with place_errors(batch):
                prompts = loaded.prepare([item.turn(item.text or text) for item in batch], remember=False)
            seen = loaded.last_token_activations(prompts, batch_size=batch_size)
            far = gate.out_of_distribution(seen)
            scores += [
                math.inf if beyond else score
                for score, beyond in zip(gate.score(seen).tolist(), far.tolist(), strict=True)
            ]
            report("Scoring", len(scores), len(items))
    return scores


def _rates(texts: list[str]) -> dict[str, float]:
    """Parse ``1%``, ``0.01`` and ``GROUP=1%``."""
    rates: dict[str, float] = {}
    for text in texts:
        group, _, value = text.rpartition("=")
        group = group.strip() or "all"
        number = value.strip()
        try:
            rate = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
        except ValueError:
            rate = math.nan
        if not 0 < rate < 1:
            raise SarsteerError(f"--max-refused {text}: write a share between 0 and 1, such as 1% or 0.01")
        if group in rates:
            raise SarsteerError(f"--max-refused {text}: there are two rates for {group}; give one")
        rates[group] = rate
    return rates
