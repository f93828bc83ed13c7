"""XSTest: written safe requests that sound dangerous, each beside an unsafe contrast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import extra_fields, find_file, optional_text, read_rows, required_text
from sarsteer.data.manifest import Item
from sarsteer.errors import BenchmarkError

_LABELS = {"safe": "safe", "unsafe": "harmful"}
_UNSAFE_TYPE = "contrast_"


class XSTest(Benchmark):
    """Written safe requests that sound dangerous, and unsafe contrasts: a test of over-refusal."""

    name = "xstest"
    title = "XSTest"
    source = "https://github.com/paul-rottger/xstest (xstest_prompts.csv)"
    license = "CC BY 4.0"
    variants = (Variant("text"),)

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """``xstest_prompts.csv`` or ``xstest_v2_prompts.csv``, or another CSV file whose name begins with ``xstest``.

        The column ``label`` says whether a request is safe; in version 2, which has none, the prefix ``contrast_`` of
        the column ``type`` does.
        """
        path = find_file(folder, "xstest_prompts.csv", "xstest_v2_prompts.csv", "xstest*.csv")
        for place, row in read_rows(path):
            kind = required_text(row, place, "type")
            yield Item(
                id=f"xstest-{required_text(row, place, 'id')}",
                question=required_text(row, place, "prompt"),
                label=_label(optional_text(row, "label"), kind, place),
                modality="text",
                category=kind,
                extra=extra_fields(row, "type", "prompt"),
            )


def _label(written: str | None, kind: str, place: str) -> str:
    if written is None:
        return "harmful" if kind.startswith(_UNSAFE_TYPE) else "safe"
    if written not in _LABELS:
        raise BenchmarkError(f"has the label {written!r}; it must be safe or unsafe", place=place)
    return _LABELS[written]
