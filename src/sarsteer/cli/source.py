"""Where data commands read their items: a manifest, or a benchmark in its own format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sarsteer.data.manifest import Item
from sarsteer.errors import SarsteerError

Manifest = Annotated[Path | None, typer.Argument(help="Manifest (JSONL), unless --benchmark is given.")]
BenchmarkName = Annotated[str | None, typer.Option("--benchmark", help="A benchmark, such as figstep or advbench.")]
Folder = Annotated[Path | None, typer.Option(help="Folder of the benchmark. Default: fetch it from the Hub.")]
Variant = Annotated[str | None, typer.Option(help="Variant of the benchmark, such as text.")]
Split = Annotated[str | None, typer.Option(help="Split of the benchmark, such as train.")]
Limit = Annotated[int | None, typer.Option(help="Use only the first N items.", min=1, metavar="N")]


def load_source(
    manifest: Path | None, benchmark: str | None, folder: Path | None, variant: str | None, split: str | None,
    limit: int | None,
) -> list[Item]:  # fmt: skip
    """The items of the manifest or of the benchmark.

    Raises:
        SarsteerError: both or neither are given, or the source is invalid.

    """
    if (manifest is None) == (benchmark is None):
        raise SarsteerError("give either a manifest or --benchmark NAME")
    if benchmark is None and (folder or variant or split):
        raise SarsteerError("--folder, --variant and --split need --benchmark NAME")
    if manifest is not None:
        from sarsteer.data.manifest import load_items

        return load_items(manifest)[:limit]
    from sarsteer.data.benchmarks import load_benchmark

    assert benchmark is not None
    return list(load_benchmark(benchmark, folder=folder, variant=variant, split=split, limit=limit).items)
