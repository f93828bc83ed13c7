"""What ``sarsteer evaluate`` does, without printing a word of it: everything is checked before the first answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer import tiny
from sarsteer.audio import load_clip
from sarsteer.data.benchmarks import LoadedBenchmark, load_benchmark
from sarsteer.data.manifest import Item
from sarsteer.data.overlap import check_disjoint
from sarsteer.data.pairs import Pairs, load_pairs, pair_up
from sarsteer.defenses import Strength, Supplies, check_specs, make_defense
from sarsteer.defenses.factory import at_alpha, is_steered
from sarsteer.errors import AudioError, BenchmarkError, EvaluationError, ManifestError
from sarsteer.evaluation.judge_choice import choose_judges, is_scoring, measures_usefulness
from sarsteer.evaluation.misheard import Hearing, altered, listen, without_misheard
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Arm, Evaluation

if TYPE_CHECKING:
    from sarsteer.judges import Judge
    from sarsteer.runtime.shared import SharedModel
    from sarsteer.steering.artifact import Steering

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What the command line says; see its help."""

    model: str
    benchmarks: Sequence[str]
    defenses: Sequence[str]
    out: Path
    steering: Path | None = None
    alpha: float | None = None
    k: int | None = None
    lambda_: float | None = None
    alpha_sweep: Sequence[float] = ()
    judge: str | Sequence[str] | None = None
    limit: int | None = None
    calibration: str | None = None
    instruction: str | None = None
    max_new_tokens: int = 256
    batch_size: int = 16
    max_wer: float | None = None
    loading: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


def run(settings: Settings, progress: Progress | None = None) -> Evaluation:
    """Evaluate, or go on with an evaluation that was killed.

    Raises:
        SarsteerError: something is missing or does not fit; or some requests found no answer. One line says what.

    """
    from sarsteer.evaluation.inspect.collect import collect
    from sarsteer.evaluation.inspect.grid import Grid, run_grid
    from sarsteer.runtime.shared import shared_judge, shared_model

    defenses = sorted(settings.defenses, key=lambda spec: spec != "none")
    swept = [(at_alpha(spec, a), spec, a) for spec in defenses if is_steered(spec) for a in settings.alpha_sweep]
    specs = [*defenses, *(spec for spec, _, _ in swept)]
    check_specs(specs, steering=settings.steering is not None, pairs=settings.calibration is not None)
    steering = _steering(settings.steering)
    benchmarks = _benchmarks(settings)
    _check_hearing(settings, benchmarks)
    pairs = load_pairs(settings.calibration, "calibration") if settings.calibration is not None else None
    notes = _check_apart(benchmarks, pairs, steering)
    judges = choose_judges(benchmarks, settings.judge)
    for spec in dict.fromkeys(judges.values()):
        shared_judge(spec)
    loading = {name: value for name, value in settings.loading.items() if value is not None}
    shared = shared_model(settings.model, loading, settings.batch_size)
    shared.batch_size = settings.batch_size
    settings.out.mkdir(parents=True, exist_ok=True)
    supplies = Supplies(
        steering=steering,
        pairs=pairs,
        judge=_first_that_tells(judges),
        cache=settings.out / "vectors",
        strength=Strength(settings.alpha, settings.k, settings.lambda_),
        batch_size=settings.batch_size,
    )
    made = {spec: make_defense(spec, shared.model, supplies) for spec in specs}
    grid = Grid(
        shared, _arms(benchmarks, defenses, swept, made), judges, settings.out, settings.limit, settings.max_new_tokens
    )
    try:
        hearings = _listen(settings, benchmarks, shared, progress)
        logs = run_grid(grid, progress)
    finally:
        shared.answerer.close()
    notes += [Note(f"its license forbids {one.forbids}", "license", one.name) for one in benchmarks if one.forbids]
    notes += [
        Note(
            "measures how good answers are; only refusals were judged here (--judge air-bench:MODEL scores)",
            "refusals_only",
            one.name,
        )
        for one in benchmarks
        if measures_usefulness(one) and not is_scoring(judges[one.name])
    ]
    if settings.model == tiny.NAME:
        notes.append(Note("these are numbers of sarsteer-tiny, a toy model; they say nothing about a large one", "toy"))
    layers = [asdict(row) for row in steering.report(settings.alpha, settings.k, settings.lambda_)] if steering else []
    notes += [hearing.note(name) for name, hearing in hearings.items()]
    return _heard(collect(logs, grid.arms, command=settings.command, layers=layers, notes=notes), hearings)


def _check_hearing(settings: Settings, benchmarks: Sequence[LoadedBenchmark]) -> None:
    if settings.max_wer is None:
        return
    if not settings.max_wer >= 0:
        raise EvaluationError(f"--max-wer must be 0 or more, not {settings.max_wer:g}; 0.5 is every other word")
    if not any(altered(item) for one in benchmarks for item in one.items):
        raise EvaluationError(
            "--max-wer: no request tells what its clip was before; name its clean clip ('clean') or its words ('said') "
            "in a manifest, or leave --max-wer out"
        )


def _listen(
    settings: Settings, benchmarks: Sequence[LoadedBenchmark], shared: SharedModel, progress: Progress | None
) -> dict[str, Hearing]:
    if settings.max_wer is None:
        return {}
    from sarsteer.tiny.world import TRANSCRIBE as EMBEDDED_TRANSCRIBE

    own = {"instruction": EMBEDDED_TRANSCRIBE} if settings.model == tiny.NAME else {}  # it knows its own words alone
    found = {
        one.name: listen(
            one,
            shared.answerer,
            settings.max_wer,
            settings.out / "hearing.jsonl",
            batch_size=settings.batch_size,
            progress=progress,
            **own,
        )
        for one in benchmarks
    }
    return {name: hearing for name, hearing in found.items() if hearing is not None}


def _heard(results: Evaluation, hearings: Mapping[str, Hearing]) -> Evaluation:
    """The results with a second table for each benchmark of altered clips, without those that were misheard."""
    plain = {arm.benchmark: arm for arm in results.arms if arm.defense == "none"}
    arms: list[Arm] = []
    for name in dict.fromkeys(arm.benchmark for arm in results.arms):
        here = [arm for arm in results.arms if arm.benchmark == name]
        hearing = hearings.get(name)
        if hearing is None:
            arms += here
            continue
        here = [replace(a, answers=tuple(replace(x, wer=hearing.wer.get(x.id)) for x in a.answers)) for a in here]
        undefended = plain.get(name)
        second = [without_misheard(arm, undefended if arm.defense != "none" else None, hearing) for arm in here]
        arms += [*here, *(arm for arm in second if arm is not None)]
    return replace(results, arms=tuple(arms))


def _arms(
    benchmarks: Sequence[LoadedBenchmark], defenses: Sequence[str], swept: Sequence[tuple[str, str, float]], made: Any
) -> list[Any]:
    from sarsteer.evaluation.inspect.grid import Arm as GridArm

    return [
        arm
        for benchmark in benchmarks
        for arm in (
            *(GridArm(benchmark, made[spec]) for spec in defenses),
            *(GridArm(benchmark, made[spec], alpha, base) for spec, base, alpha in swept),
        )
    ]


def _first_that_tells(judges: Mapping[str, str]) -> Judge | None:
    """For c2r, which asks what the model refuses: a judge of scores cannot say."""
    from sarsteer.runtime.shared import shared_judge

    return next((shared_judge(spec).judge for spec in judges.values() if not is_scoring(spec)), None)


def _steering(path: Path | None) -> Steering | None:
    if path is None:
        return None
    from sarsteer.steering.artifact import Steering

    return Steering.from_pretrained(path)


def _benchmarks(settings: Settings) -> list[LoadedBenchmark]:
    found: list[LoadedBenchmark] = []
    for spec in settings.benchmarks:
        one = load_benchmark(spec, limit=settings.limit, instruction=settings.instruction)
        if any(other.name == one.name for other in found):
            raise BenchmarkError(f"two benchmarks are called {one.name!r}; give each once, and each file its own name")
        found.append(replace(one, seconds=_check_clips(one)))
    if not found:
        raise EvaluationError("there is no benchmark; give --benchmark")
    return found


def _check_clips(benchmark: LoadedBenchmark) -> dict[str, float]:
    """Read every clip once: a bad one is told now, and not after hours; mending it later would change what is asked.

    Returns:
        Each clip's seconds, by its item's id.

    """
    spoken = [item for item in benchmark.items if item.modality == "audio"]

    def read(item: Item) -> float:
        try:
            return load_clip(item.audio).seconds
        except AudioError as error:
            raise EvaluationError(f"{benchmark.name}: item {item.id!r}: {error}") from None

    with ThreadPoolExecutor() as pool:  # decoders let go of the interpreter
        return dict(zip((item.id for item in spoken), pool.map(read, spoken), strict=True))


def _check_apart(benchmarks: Sequence[LoadedBenchmark], pairs: Pairs | None, steering: Steering | None) -> list[Note]:
    """Refuse to measure on what was calibrated on; returns what could not be checked."""
    notes: list[Note] = []
    for benchmark in benchmarks:
        if pairs is not None:
            try:
                check_disjoint([*pairs.harmful, *pairs.safe], benchmark.items)
            except ManifestError as error:
                raise EvaluationError(f"{benchmark.name}: {error}") from None
        if steering is not None and _same_pairs(benchmark, steering):
            raise EvaluationError(
                f"{benchmark.name}: the steering was calibrated on these very requests; evaluate on others"
            )
    if steering is not None and pairs is None:
        text = (
            "without --calibration only whole sets were compared: single requests that calibration and test share "
            "would not have been noticed"
        )
        notes.append(Note(text, "overlap"))
    elif steering is not None and pairs is not None and not _made_of(pairs, steering):
        text = "the steering was not made of the pairs given as --calibration, so that its own were not compared"
        notes.append(Note(text, "overlap"))
    return notes


def _made_of(pairs: Pairs, steering: Steering) -> bool:
    """Whether the steering was drawn from these pairs, or the first of them."""
    n = int(steering.metadata.get("pairs", 0))
    return len(pairs) >= n and pairs[:n].digest == steering.metadata.get("pairs_digest")


def _same_pairs(benchmark: LoadedBenchmark, steering: Steering) -> bool:
    try:
        return _made_of(pair_up(benchmark.items, benchmark.name), steering)
    except ManifestError:  # no pairs, so not those
        return False
