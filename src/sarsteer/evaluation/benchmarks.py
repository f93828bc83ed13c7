"""Load the benchmarks of a run, and decode every clip once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sarsteer.audio import load_clip
from sarsteer.data.benchmarks import BenchmarkSpec, LoadedBenchmark, load_benchmark
from sarsteer.data.benchmarks.manifest import Manifest
from sarsteer.data.manifest import Item
from sarsteer.errors import AudioError, BenchmarkError, EvaluationError


def load_benchmarks(
    specs: Sequence[BenchmarkSpec],
    limit: int | None = None,
    instruction: str | None = None,
    audio_root: Path | None = None,
) -> tuple[LoadedBenchmark, ...]:
    """The requests of all benchmarks, with the lengths of their clips.

    Manifests read their clips from ``audio_root``; see ``load_items``.

    Raises:
        BenchmarkError, ManifestError: one cannot be loaded, or two have the same name.
        EvaluationError: a clip cannot be read.

    """
    if audio_root is not None:
        specs = [
            replace(spec, benchmark=replace(spec.benchmark, audio_root=audio_root))
            if isinstance(spec.benchmark, Manifest)
            else spec
            for spec in specs
        ]
    loaded = [load_benchmark(spec, limit=limit, instruction=instruction) for spec in specs]
    names = [one.name for one in loaded]
    for name in names:
        if names.count(name) > 1:
            raise BenchmarkError(f"two benchmarks are called {name!r}; pass each once, and give each file its own name")
    return tuple(map(with_clip_lengths, loaded))


def with_clip_lengths(benchmark: LoadedBenchmark) -> LoadedBenchmark:
    """The benchmark with the lengths of its clips.

    Raises:
        EvaluationError: a clip cannot be read.

    """
    return replace(benchmark, seconds=_clip_lengths(benchmark))


def _clip_lengths(benchmark: LoadedBenchmark) -> dict[str, float]:
    """Seconds of each clip, by its item's id.

    Decoding shows a bad clip now and not after hours, when a repair would change the requests.
    """
    spoken = [item for item in benchmark.items if item.modality == "audio"]

    def seconds(item: Item) -> float:
        try:
            return load_clip(item.audio).seconds
        except AudioError as error:
            raise EvaluationError(str(error), place=f"{benchmark.name}: item {item.id!r}") from None

    with ThreadPoolExecutor() as pool:  # decoders release the interpreter
        return dict(zip((item.id for item in spoken), pool.map(seconds, spoken), strict=True))
