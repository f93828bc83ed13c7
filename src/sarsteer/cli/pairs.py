"""``sarsteer pairs``: harmful requests in, pairs with safe twins out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sarsteer.cli import source
from sarsteer.cli.output import check_out, console, print_json, progress_bar
from sarsteer.errors import SarsteerError


def pairs(
    model: Annotated[str, typer.Option("--model", help="Writes the twins, such as openai/NAME.")],
    out: Annotated[Path, typer.Option("--out", help="Manifest of written pairs to write (JSONL).")],
    manifest: source.Manifest = None,
    benchmark: source.BenchmarkName = None,
    folder: source.Folder = None,
    variant: source.Variant = None,
    split: source.Split = None,
    limit: source.Limit = None,
    base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible server.")] = None,
    checker: Annotated[str | None, typer.Option(help="Checks the twins; the same model by default.")] = None,
    checker_base_url: Annotated[str | None, typer.Option(help="Where the checker is; as --base-url.")] = None,
    threshold: Annotated[float, typer.Option(help="Least share of words kept.", min=0, max=1)] = 0.5,
    tries: Annotated[int, typer.Option(help="How often each twin is asked for.", min=1)] = 4,
    concurrency: Annotated[int, typer.Option(help="Requests worked on at once.", min=1)] = 8,
    overwrite: Annotated[bool, typer.Option(help="Replace the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Make the safe twin of each harmful request: same topic and wording, harmless intent.

    A run that was killed goes on where it was when started again with the same settings.
    """
    check_out(out, overwrite=overwrite)
    items = source.chosen_items(manifest, benchmark, folder, variant, split, limit)
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
    aside = out.with_name(f"{out.stem}.rejected.jsonl")
    aside.unlink(missing_ok=True)  # of an earlier run
    if made.rejected:
        import json

        rows = (json.dumps(asdict(outcome), ensure_ascii=False) for outcome in made.rejected)
        write_text(aside, "".join(f"{row}\n" for row in rows))
    if not made.items:
        why = made.rejected[0].reasons[-1]
        raise SarsteerError(
            f"none of {len(made.rejected)} twins passed (the first: {why}); all are in {aside}; "
            f"delete {log} to try again"
        )
    save_items(out, made.items)
    log.unlink(missing_ok=True)
    count, left_out = len(made.items) // 2, sum(not item.harmful for item in items)
    if left_out:
        source.note(f"{left_out} items are safe already and were left out")
    if as_json:
        print_json(
            {
                "file": str(out),
                "pairs": count,
                "rejected": len(made.rejected),
                "rejected_file": str(aside) if made.rejected else None,
                "left_out": left_out,
            }
        )
        return
    told = f"; {len(made.rejected)} rejected: {aside}" if made.rejected else ""
    console.print(f"{out}: {count} pairs{told}", markup=False, highlight=False, soft_wrap=True)
    console.print("Speak them: sarsteer speak", str(out), "--out FOLDER", markup=False, highlight=False, soft_wrap=True)
