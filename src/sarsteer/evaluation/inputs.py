"""Everything that a plan names, read and checked before the first answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sarsteer import tiny
from sarsteer.audio import load_clip
from sarsteer.data.benchmarks import LoadedBenchmark, load_benchmark
from sarsteer.data.manifest import Item
from sarsteer.data.overlap import check_disjoint
from sarsteer.data.pairs import Pairs, load_pairs, pair_up
from sarsteer.errors import AudioError, BenchmarkError, EvaluationError, ManifestError
from sarsteer.evaluation.judge_choice import choose_judges, is_scoring
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.plan import EvaluationPlan
from sarsteer.evaluation.word_errors import is_altered

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering


@dataclass(frozen=True)
class Inputs:
    """What a run works with.

    Attributes:
        benchmarks: their requests, with the lengths of the clips.
        judges: a judge's spec for each benchmark, by name.
        steering: the steering file's content.
        pairs: the calibration pairs.
        notes: what a reader of the results must know.

    """

    benchmarks: tuple[LoadedBenchmark, ...] = field(repr=False)
    judges: dict[str, str]
    steering: Steering | None
    pairs: Pairs | None = field(repr=False)
    notes: tuple[Note, ...]


def load_inputs(plan: EvaluationPlan) -> Inputs:
    """Read what ``plan`` names.

    Raises:
        SarsteerError: something is missing, damaged or does not fit, or calibration and test share requests.

    """
    steering = _load_steering(plan)
    benchmarks = _load_benchmarks(plan)
    if plan.max_wer is not None and not any(is_altered(item) for one in benchmarks for item in one.items):
        raise EvaluationError(
            "--max-wer: no request names its clean clip ('clean') or its words ('said') in a manifest; add one, or "
            "leave --max-wer out"
        )
    pairs = load_pairs(plan.calibration, "calibration") if plan.calibration is not None else None
    notes = _check_disjoint(benchmarks, pairs, steering)
    judges = choose_judges(benchmarks, plan.judges)
    notes += _notes_on_benchmarks(benchmarks, judges)
    if plan.model == tiny.NAME:
        notes.append(Note("these are numbers of sarsteer-tiny, a toy model; they say nothing about a large one", "toy"))
    return Inputs(benchmarks, judges, steering, pairs, tuple(notes))


def _load_steering(plan: EvaluationPlan) -> Steering | None:
    if plan.steering is None:
        return None
    from sarsteer.steering.artifact import Steering

    return Steering.from_pretrained(plan.steering)


def _load_benchmarks(plan: EvaluationPlan) -> tuple[LoadedBenchmark, ...]:
    loaded = [load_benchmark(spec, limit=plan.limit, instruction=plan.instruction) for spec in plan.benchmarks]
    names = [one.name for one in loaded]
    for name in names:
        if names.count(name) > 1:
            raise BenchmarkError(f"two benchmarks are called {name!r}; pass each once, and give each file its own name")
    return tuple(replace(one, seconds=_clip_lengths(one)) for one in loaded)


def _clip_lengths(benchmark: LoadedBenchmark) -> dict[str, float]:
    """Seconds of each clip, by its item's id.

    Every clip is decoded here: a bad one is reported now and not after hours, when a repair would change the requests.
    """
    spoken = [item for item in benchmark.items if item.modality == "audio"]

    def seconds(item: Item) -> float:
        try:
            return load_clip(item.audio).seconds
        except AudioError as error:
            raise EvaluationError(str(error), place=f"{benchmark.name}: item {item.id!r}") from None

    with ThreadPoolExecutor() as pool:  # decoders release the interpreter
        return dict(zip((item.id for item in spoken), pool.map(seconds, spoken), strict=True))


def _check_disjoint(
    benchmarks: Sequence[LoadedBenchmark], pairs: Pairs | None, steering: Steering | None
) -> list[Note]:
    """Raise if a benchmark shares requests with the calibration; return notes on what could not be compared."""
    for benchmark in benchmarks:
        if pairs is not None:
            try:
                check_disjoint([*pairs.harmful, *pairs.safe], benchmark.items)
            except ManifestError as error:
                raise EvaluationError(str(error), place=benchmark.name) from None
        if steering is not None and _is_calibration_set(benchmark, steering):
            raise EvaluationError(
                "the steering was calibrated on these very requests; evaluate on others", place=benchmark.name
            )
    if steering is None:
        return []
    if pairs is None:
        text = (
            "without --calibration only whole sets were compared: requests that both sets share were not searched for"
        )
        return [Note(text, "overlap")]
    if not _calibrated_on(pairs, steering):
        text = "the steering was not calibrated on the pairs of --calibration, so its own pairs were not compared"
        return [Note(text, "overlap")]
    return []


def _calibrated_on(pairs: Pairs, steering: Steering) -> bool:
    """Whether the steering was calibrated on these pairs, or on the first of them."""
    n = int(steering.metadata.get("pairs", 0))
    return len(pairs) >= n and pairs[:n].digest == steering.metadata.get("pairs_digest")


def _is_calibration_set(benchmark: LoadedBenchmark, steering: Steering) -> bool:
    try:
        return _calibrated_on(pair_up(benchmark.items, benchmark.name), steering)
    except ManifestError:  # it has no pairs
        return False


def _notes_on_benchmarks(benchmarks: Sequence[LoadedBenchmark], judges: dict[str, str]) -> list[Note]:
    notes = [Note(f"its license forbids {one.forbids}", "license", one.name) for one in benchmarks if one.forbids]
    for one in benchmarks:
        if one.measures_usefulness and not is_scoring(judges[one.name]):
            text = "measures how good answers are; only refusals were judged here (--judge air-bench:MODEL scores)"
            notes.append(Note(text, "refusals_only", one.name))
    return notes
