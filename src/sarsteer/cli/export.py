"""``sarsteer export``: a built-in model as an ordinary checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sarsteer.cli import options
from sarsteer.cli.output import console, print_json


def export(
    model: Annotated[str, typer.Argument(help="sarsteer-small or sarsteer-tiny.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write: a new or an empty one.")],
    as_json: options.Json = False,
) -> None:
    """Write a built-in model's checkpoint into a folder that transformers and vLLM load."""
    from sarsteer.models.packaged import export_model

    written = export_model(model, folder)
    size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    if as_json:
        print_json({"folder": str(written), "bytes": size})
        return
    console.print(f"{written}: {model}, {size / 1e6:.0f} MB", markup=False, highlight=False, soft_wrap=True)
