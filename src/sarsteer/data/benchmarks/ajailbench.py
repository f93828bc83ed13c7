"""AJailBench: jailbreaks read aloud ("base"), and perturbed against one model each ("perturbed").

The request is the goal's text. The authors' released loader uses the clip's path instead, which no judge can read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import Row, extra_fields, find_file, read_rows, required_text
from sarsteer.data.benchmarks.hub import HubDataset
from sarsteer.data.manifest import Item
from sarsteer.errors import BenchmarkError

GOAL = ("goal", "Goal", "behavior", "behaviour", "question", "prompt")
_RESPONSES = {
    "qwen2": "qwen2_response_jsonl",
    "diva": "Diva_response_jsonl",
    "gemini2": "Gemini2.0_flash_response_jsonl",
    "salmonn": "SALMONN_response_jsonl",
    "gpt4o": "gpt4o_response_jsonl",
}


class AJailBench(Benchmark):
    """Spoken jailbreaks, original and adversarially perturbed."""

    name = "ajailbench"
    title = "AJailBench"
    source = "https://huggingface.co/datasets/MBZUAI/AudioJailbreak"
    license = "Apache-2.0"
    variants = (Variant("base"), Variant("perturbed", tuple(_RESPONSES)))
    hub = HubDataset("MBZUAI/AudioJailbreak", files=("audio/*", "convert/question/*", "inference/response/*/BO/*"))

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """``convert/question/combined_output.jsonl``, or the search against the model that ``split`` names."""
        target = split or "qwen2"
        if variant == "base":
            path = find_file(folder, "convert/question/combined_output.jsonl", "combined_output.jsonl")
        else:
            lists = f"inference/response/{_RESPONSES[target]}/BO"
            tails = [f"{lists}/{name}BO_sorted_combined_output.jsonl" for name in ("", "new_")]
            path = find_file(folder, *tails, f"{lists}/*.jsonl")
        prefix = f"ajailbench-{variant}" + (f"-{target}" if variant == "perturbed" else "")
        root = _root(path, folder)
        clips_by_name: dict[str, Path] = {}
        clean = self._clean_clips(folder) if variant == "perturbed" else {}
        for number, (place, row) in enumerate(read_rows(path)):
            goal = required_text(row, place, *GOAL)
            before = clean.get((str(row.get("index")), goal))
            yield Item(
                id=f"{prefix}-{row.get('index', number)}",
                question=goal,
                label="harmful",
                media=_clip(required_text(row, place, "speech_path", "audio_path", "audio"), root, clips_by_name),
                category=str(row["category"]) if row.get("category") is not None else None,
                extra=_extra(row) | ({} if before is None else {"clean": str(before)}),
            )

    def _clean_clips(self, folder: Path) -> dict[tuple[str, str], Path]:
        """The clips before they were perturbed, by index and goal, if the base list is in the same folder."""
        try:
            items = list(self.read(folder, "base", None))
        except BenchmarkError:  # missing or ambiguous: the perturbed clips are used without it
            return {}
        prefix = "ajailbench-base-"
        return {(item.id.removeprefix(prefix), item.question): item.audio for item in items if item.audio.is_file()}


def _extra(row: Row) -> Row:
    """Keep the jailbreak's words, which are what is said; drop a model's old answer."""
    return extra_fields(row, *GOAL[:4], "question", "speech_path", "audio_path", "response", "index")


def _root(path: Path, folder: Path) -> Path:
    """The folder that contains ``audio/``: the clone, or where it was unpacked."""
    for parent in path.parents:
        if (parent / "audio").is_dir():
            return parent
        if parent == folder:
            break
    return folder


def _clip(written: str, root: Path, clips_by_name: dict[str, Path]) -> Path:
    """The clip of a path on the authors' machines: the longest tail that is a file here, else a file of that name."""
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        for base in (root, root / "audio"):
            if (base / Path(*parts[start:])).is_file():
                return base / Path(*parts[start:])
    if not clips_by_name:
        clips_by_name[""] = root
        for file in sorted((root / "audio").rglob("*")):
            clips_by_name.setdefault(file.name, file)
    return clips_by_name.get(parts[-1] if parts else written, root / "audio" / Path(*parts or [written]))
