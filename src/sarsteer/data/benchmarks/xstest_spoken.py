"""XSTest's benign requests, spoken: each should be answered, though some sound alarming."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import MissingFilesError, optional_text
from sarsteer.data.benchmarks.hub import HubDataset
from sarsteer.data.benchmarks.parquet import find_tables
from sarsteer.data.benchmarks.rows import item_of, rows_of_files, rows_of_tables
from sarsteer.data.manifest import Item


class XSTestSpoken(Benchmark):
    """Benign requests that sound alarming, spoken: a test of over-refusal."""

    name = "xstest_spoken"
    title = "XSTest, spoken"
    source = "https://huggingface.co/datasets/audio-safety-group/XSTest-Benige"
    license = "not verified"
    variants = (Variant("benign"),)
    hub = HubDataset("audio-safety-group/XSTest-Benige")

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """Parquet files, or clips beside a metadata table."""
        try:
            rows = rows_of_tables(find_tables(folder, "*.parquet"))
        except MissingFilesError:
            rows = rows_of_files(folder)
        for number, row in enumerate(rows):
            name = optional_text(row[1], "id", "index") or str(number)
            yield item_of(f"xstest_spoken-{name}", row, "safe", category=optional_text(row[1], "type"))
