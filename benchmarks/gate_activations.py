"""Activations of sarsteer-small on speech and text, computed once for all measurements of the gate.

    python -m benchmarks.gate_activations --benchmarks FOLDER

writes them to ``--work``, a folder per model; an interrupted run continues. FOLDER has ``figstep_safebench_odd.csv``
and ``xstest_half.csv``: FigStep's questions of odd number in its seven dangerous topics, and every second
prompt of XSTest. Without it, only sarsteer-pairs is used. On one core
this takes about 12 minutes, and the transcripts of the test clips 2 more.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sarsteer.data.manifest import Item
from sarsteer.data.sarsteer_pairs.load import speak_lines
from sarsteer.data.sarsteer_pairs.texts import lines
from sarsteer.data.sarsteer_pairs.voices import VOICES
from sarsteer.files import cache_folder

INSTRUCTION, TRANSCRIBE = "Please answer the question in the audio.", "Repeat the words."
WRITTEN = "Please answer the question."
"""Beside a written request, which has no audio."""
PAIRED, SAFE = ("harmful", "twin", "contrast", "borderline"), ("everyday",)
HELD_OUT = ("en-us+f5", "en-gb-x-rp", "en-us+m8")
"""Voices of no training clip."""
BATCH = 32

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Requests in one form.

    Attributes:
        name: of its file.
        requests: ``calibration``, ``tuning``, ``test``, or ``bench`` for FigStep and XSTest.
        voices: None for the default voices; empty for text.

    """

    name: str
    requests: str
    voices: tuple[str, ...] | None = None

    def items(self, benchmarks: Path | None) -> list[Item]:
        """The requests, spoken unless they are written."""
        written = from_tables(benchmarks) if self.requests == "bench" else lines(self.requests, PAIRED + SAFE)
        if self.voices == ():
            return written
        return list(speak_lines(written, self.voices))


OTHER_VOICES = VOICES[3:] + VOICES[:3]
"""The default voices, but each request gets another one."""
PARTS = (
    Part("speech-calibration", "calibration"),
    Part("speech-tuning", "tuning"),
    Part("speech-test", "test"),
    Part("text-calibration", "calibration", ()),
    Part("text-tuning", "tuning", ()),
    Part("text-test", "test", ()),
    Part("speech-bench", "bench"),
    Part("text-bench", "bench", ()),
    Part("speech-calibration-2", "calibration", OTHER_VOICES),
    Part("speech-test-held-out", "test", HELD_OUT),
)
TRANSCRIBED = ("speech-test",)


def from_tables(folder: Path | None) -> list[Item]:
    """FigStep and XSTest as written requests."""
    if folder is None:
        return []
    items = []
    with (folder / "figstep_safebench_odd.csv").open() as file:
        for row in csv.DictReader(file):
            if int(row["category_id"]) <= 7:  # the others are legal, financial and health advice
                extra = {"group": "figstep", "split": "bench"}
                name, category = f"figstep-{row['category_id']}-{row['task_id']}", row["category_name"]
                items.append(Item(name, row["question"], "harmful", "text", category=category, extra=extra))
    with (folder / "xstest_half.csv").open() as file:
        for row in csv.DictReader(file):
            unsafe = row["type"].startswith("contrast")
            extra = {"group": "xstest-unsafe" if unsafe else "xstest-safe", "split": "bench"}
            label, name = "harmful" if unsafe else "safe", f"xstest-{row['id']}"
            items.append(Item(name, row["prompt"], label, "text", category=row["type"], extra=extra))
    return items


def describe(item: Item) -> Row:
    """What the measurements need to know of a request."""
    row = {name: getattr(item, name) for name in ("id", "question", "label", "pair", "category", "modality")}
    row |= {name: item.extra.get(name) for name in ("group", "style", "topic", "split", "voice")}
    return row


def folder_of(work: Path | None, identity: str) -> Path:
    """Where the activations of a model are."""
    return (work or cache_folder() / "benchmarks") / f"gate-{identity[:16]}"


def compute(model: Any, folder: Path, benchmarks: Path | None, parts: Sequence[Part]) -> None:
    """Compute the parts that are missing, in shards of ``BATCH`` requests."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        target = folder / f"{part.name}.pt"
        if target.is_file():
            continue
        items = part.items(benchmarks)
        if not items:
            continue
        shards = folder / f"{part.name}.partial"
        found = torch.load(shards) if shards.is_file() else []
        for start in range(sum(map(len, found)), len(items), BATCH):
            chosen = items[start : start + BATCH]
            text = INSTRUCTION if part.voices != () else WRITTEN
            prompts = model.prepare([item.turn(text) for item in chosen], remember=False)
            found.append(model.last_token_activations(prompts, batch_size=16))
            save(found, shards)
            print(f"{part.name}: {start + len(chosen)} of {len(items)}", flush=True)
        save({"rows": [describe(item) for item in items], "last": torch.cat(found)}, target)
        shards.unlink()


def transcribe(model: Any, folder: Path, benchmarks: Path | None, names: Sequence[str]) -> None:
    """What the model understands of the clips, where that is missing."""
    for part in PARTS:
        target = folder / f"{part.name}.transcripts.pt"
        if part.name not in names or target.is_file() or not (items := part.items(benchmarks)):
            continue
        found: list[str] = []
        for start in range(0, len(items), BATCH):
            turns = [item.turn(TRANSCRIBE) for item in items[start : start + BATCH]]
            prompts = model.prepare(turns, remember=False)
            found += model.generate(prompts, max_new_tokens=24, batch_size=BATCH)
            print(f"{target.stem}: {len(found)} of {len(items)}", flush=True)
        save(found, target)


def read_transcripts(model: Any, folder: Path, benchmarks: Path | None, names: Sequence[str]) -> None:
    """Activations of the transcripts as written requests: what a gate could know from the words alone."""
    for part in PARTS:
        source, target = folder / f"{part.name}.transcripts.pt", folder / f"transcripts-{part.name}.pt"
        if part.name not in names or target.is_file() or not source.is_file():
            continue
        found: list[torch.Tensor] = []
        items, texts = part.items(benchmarks), torch.load(source)
        written = [
            replace(item, question=text or "...", modality="text", media=None)
            for item, text in zip(items, texts, strict=True)
        ]
        for start in range(0, len(items), BATCH):
            turns = [item.turn(WRITTEN) for item in written[start : start + BATCH]]
            found.append(model.last_token_activations(model.prepare(turns, remember=False), batch_size=16))
            print(f"{target.stem}: {sum(map(len, found))} of {len(items)}", flush=True)
        save({"rows": [describe(item) for item in items], "last": torch.cat(found)}, target)


def save(value: Any, path: Path) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    os.replace(temporary, path)


def load(folder: Path, name: str) -> tuple[list[Row], torch.Tensor]:
    """The requests and the activations ``[n, L, D]`` of a part."""
    seen = torch.load(folder / f"{name}.pt")
    return seen["rows"], seen["last"]


def main() -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sarsteer-small")
    parser.add_argument("--benchmarks", type=Path, help="folder with figstep_safebench_odd.csv and xstest_half.csv")
    parser.add_argument("--work", type=Path, help="by default a folder of sarsteer's cache")
    parser.add_argument("--parts", nargs="*", default=[part.name for part in PARTS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    import sarsteer

    model = sarsteer.load_model(options.model, dtype="float32")
    folder = folder_of(options.work, model.fingerprint.digest)
    print(folder, flush=True)
    compute(model, folder, options.benchmarks, [part for part in PARTS if part.name in options.parts])
    transcribed = [name for name in TRANSCRIBED if name in options.parts]
    transcribe(model, folder, options.benchmarks, transcribed)
    read_transcripts(model, folder, options.benchmarks, transcribed)


if __name__ == "__main__":
    main()
