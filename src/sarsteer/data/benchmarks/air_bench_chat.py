"""AIR-Bench Chat: open questions about sounds, with reference answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.files import clip_path, extra_fields, find_file, read_rows, required_text
from sarsteer.data.benchmarks.hub import HubDataset
from sarsteer.data.manifest import Item


class AirBenchChat(Benchmark):
    """Questions about speech, sound and music: the usefulness that a defense must preserve."""

    name = "air_bench_chat"
    title = "AIR-Bench Chat"
    source = "https://huggingface.co/datasets/qyang1021/AIR-Bench-Dataset"
    license = "CC BY-NC 4.0"
    forbids = "commercial use"
    variants = (Variant("chat", metric="chat_score"),)
    hub = HubDataset("qyang1021/AIR-Bench-Dataset", files=("Chat/*",))

    def read(self, folder: Path, variant: str, split: str | None) -> Iterator[Item]:
        """``Chat_meta.json``; each clip is at ``{task}_{dataset}/{path}``, and its question is text beside it."""
        path = find_file(folder, "Chat/Chat_meta.json", "Chat_meta.json")
        for place, row in read_rows(path):
            task = f"{required_text(row, place, 'task_name')}_{required_text(row, place, 'dataset_name')}"
            question = required_text(row, place, "question")
            yield Item(
                id=f"air_bench_chat-{required_text(row, place, 'uniq_id')}",
                question=question,
                label="safe",
                media=clip_path(path.parent, f"{task}/{required_text(row, place, 'path')}", place),
                category=task,
                text=question,
                answer=required_text(row, place, "answer_gt"),
                extra=extra_fields(row, "path", "answer_gt"),
            )
