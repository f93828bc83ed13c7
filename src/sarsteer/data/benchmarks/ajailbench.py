"""AJailBench: jailbreaks read aloud ("base"), and perturbed against one model each ("perturbed").

The request is the goal's text. The released loader of others takes the clip's path for it, which no judge can read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sarsteer.data.benchmarks.files import Row, locate, plain, read_rows, text_of
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


def read(folder: Path, variant: str, split: str | None) -> Iterator[Item]:
    """``convert/question/combined_output.jsonl``, or the search against the model that ``split`` names."""
    if variant == "base":
        path = locate(folder, "convert/question/combined_output.jsonl", "combined_output.jsonl")
    else:
        lists = f"inference/response/{_RESPONSES[split or 'qwen2']}/BO"
        path = locate(
            folder, *(f"{lists}/{name}BO_sorted_combined_output.jsonl" for name in ("", "new_")), f"{lists}/*.jsonl"
        )
    name = f"ajailbench-{variant}" + (f"-{split or 'qwen2'}" if variant == "perturbed" else "")
    root = _root(path, folder)
    by_name: dict[str, Path] = {}
    clean = _clean(folder) if variant == "perturbed" else {}
    for number, (where, row) in enumerate(read_rows(path)):
        index = row.get("index", number)
        goal = text_of(row, where, *GOAL)
        before = clean.get((str(row.get("index")), goal))
        yield Item(
            id=f"{name}-{index}",
            question=goal,
            label="harmful",
            media=_clip(text_of(row, where, "speech_path", "audio_path", "audio"), root, by_name),
            category=str(row["category"]) if row.get("category") is not None else None,
            extra=_extra(row) | ({} if before is None else {"clean": str(before)}),
        )


def _clean(folder: Path) -> dict[tuple[str, str], Path]:
    """The clips before they were perturbed, by index and goal, where the base list lies in the same folder."""
    try:
        items = list(read(folder, "base", None))
    except BenchmarkError:  # it is not there, or not to be told from others: the perturbed clips stand alone
        return {}
    return {
        (item.id.removeprefix("ajailbench-base-"), item.question): item.audio for item in items if item.audio.is_file()
    }


def _extra(row: Row) -> Row:
    """The jailbreak's own words stay, since they are what is said; a model's old answer goes."""
    return plain(row, *GOAL[:4], "question", "speech_path", "audio_path", "response", "index")


def _root(path: Path, folder: Path) -> Path:
    """The folder that holds ``audio/``: the clone, or what it was unpacked into."""
    for parent in path.parents:
        if (parent / "audio").is_dir():
            return parent
        if parent == folder:
            break
    return folder


def _clip(told: str, root: Path, by_name: dict[str, Path]) -> Path:
    """Paths are those of the authors' machines: the longest tail that is a file here, else one of that name."""
    parts = [part for part in PurePosixPath(told.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        if (root / Path(*parts[start:])).is_file():
            return root / Path(*parts[start:])
        if (root / "audio" / Path(*parts[start:])).is_file():
            return root / "audio" / Path(*parts[start:])
    if not by_name:
        by_name[""] = root
        for file in sorted((root / "audio").rglob("*")):
            by_name.setdefault(file.name, file)
    return by_name.get(parts[-1] if parts else told, root / "audio" / Path(*parts or [told]))
