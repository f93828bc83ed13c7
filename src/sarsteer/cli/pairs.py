"""``sarsteer pairs``: read harmful requests, write pairs with safe twins."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sarsteer.cli import options, source
from sarsteer.cli.output import check_out, console, note, print_json, progress_bar
from sarsteer.errors import SarsteerError


def pairs(
    model: Annotated[
        str, typer.Option("--model", help="Model that writes the twins: openai/NAME, or NAME with --base-url.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Manifest to write (JSONL).")],
    manifest: source.Manifest = None,
    benchmark: source.BenchmarkName = None,
    folder: source.Folder = None,
    variant: source.Variant = None,
    split: source.Split = None,
    limit: source.Limit = None,
    base_url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    checker: Annotated[
        str | None, typer.Option(help="Model that checks the twins, as --model. Default: the same.")
    ] = None,
    checker_base_url: Annotated[str | None, typer.Option(help="The checker's server. Default: --base-url.")] = None,
    threshold: Annotated[float, typer.Option(help="Minimum share of words that a twin keeps.", min=0, max=1)] = 0.5,
    tries: Annotated[int, typer.Option(help="Maximum number of attempts per twin.", min=1)] = 4,
    concurrency: Annotated[int, typer.Option(help="Number of requests at once.", min=1)] = 8,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Write a safe twin for each harmful request: same topic and wording, harmless intent.

    A run that was interrupted resumes when the same command is run again.
    """
    check_out(out, overwrite=overwrite)
    _check_provider(model, base_url)
    if checker is not None:
        _check_provider(checker, checker_base_url or base_url)
    items = source.load_source(manifest, benchmark, folder, variant, split, limit)
    from sarsteer.data.save import save_items
    from sarsteer.data.twins import make_twins
    from sarsteer.files import write_text
    from sarsteer.models.api.model import ApiModel

    writer = ApiModel(model, base_url=base_url)
    judge = writer if checker is None else ApiModel(checker, base_url=checker_base_url or base_url)
    log = out.with_name(f"{out.name}.partial")
    with progress_bar() as report:
        made = make_twins(
            items,
            writer,
            judge,
            log,
            threshold=threshold,
            tries=tries,
            in_flight=concurrency,
            progress=lambda done, total: report("Pairing", done, total),
        )
    rejected_file = out.with_name(f"{out.stem}.rejected.jsonl")
    rejected_file.unlink(missing_ok=True)  # left over from an earlier run
    if made.rejected:
        import json

        rows = (json.dumps(asdict(outcome), ensure_ascii=False) for outcome in made.rejected)
        write_text(rejected_file, "".join(f"{row}\n" for row in rows))
    if not made.items:
        reason = made.rejected[0].reasons[-1]
        raise SarsteerError(
            f"none of {len(made.rejected)} twins passed (the first: {reason}); see {rejected_file}, and delete {log} "
            "to try again"
        )
    save_items(out, made.items)
    log.unlink(missing_ok=True)
    count, left_out = len(made.items) // 2, sum(not item.harmful for item in items)
    if left_out:
        note(f"skipped {left_out} items that are already safe")
    if as_json:
        print_json(
            {
                "file": str(out),
                "pairs": count,
                "rejected": len(made.rejected),
                "rejected_file": str(rejected_file) if made.rejected else None,
                "left_out": left_out,
            }
        )
        return
    rejected = f"; {len(made.rejected)} rejected: {rejected_file}" if made.rejected else ""
    console.print(f"{out}: {count} pairs{rejected}", markup=False, highlight=False, soft_wrap=True)
    console.print("Next: sarsteer speak", str(out), "--out FOLDER", markup=False, highlight=False, soft_wrap=True)


def _check_provider(model: str, base_url: str | None) -> None:
    """Raise ``SarsteerError`` unless a provider or an address is named: harmful requests go to no default service."""
    from sarsteer.models.interface import API_PREFIX

    if not model.startswith(API_PREFIX) and not (base_url or os.environ.get("OPENAI_BASE_URL")):
        raise SarsteerError(
            f"model {model!r} names no provider, and harmful requests are sent only where you say; write "
            f"{API_PREFIX}{model} for OpenAI, or add --base-url for your server"
        )
