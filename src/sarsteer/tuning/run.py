"""Choose strengths by search: a quick surrogate over many settings, then generation and a judge for the few best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sarsteer.data.pairs import Pairs
from sarsteer.errors import TuningError
from sarsteer.judges import Judge
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.artifact import DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA, Steering
from sarsteer.steering.calibration import calibrate
from sarsteer.tuning.front import Limits, Point, choose, goals, keeps, next_on_front, pareto_front, unproven
from sarsteer.tuning.gates import fit_gates, gate_layers, last_tokens, refit
from sarsteer.tuning.measure import Measured, Measurer
from sarsteer.tuning.references import References, Report, Requests, answer_all, hear
from sarsteer.tuning.setting import Setting
from sarsteer.tuning.space import Layers, Space
from sarsteer.tuning.split import split_pairs
from sarsteer.tuning.study import ANSWERS, CALIBRATED, GENERATION, SEARCH_VERSION, SURROGATE, VERDICTS, WHOLE, Memory
from sarsteer.tuning.surrogate import Scores, Surrogate

AGREEMENT = 0.9
"""Share of first tokens on which the surrogate's way of computing and generation must agree, undefended."""
GATED_FPR = 0.1
SEARCHING, MEASURING = "Searching by first tokens", "Measuring by generation"


@dataclass(frozen=True)
class Options:
    """How to search. All but ``trials``, ``generations`` and ``limits`` must stay the same when a run goes on.

    Attributes:
        limits: what the chosen setting must keep to.
        layers: which are searched: ``"range"``, ``"all"`` (no search), or ``"weights"``.
        gate: whether to try the gate, too, where calibration could fit one.
        trials: settings scored by the surrogate.
        generations: settings measured by generation.
        surrogate: False searches by generation alone; ``trials`` then means nothing.
        tune_share: share of the pairs that strengths are chosen on.
        seed: of the split and of the search.
        instruction, refusal_prompt: as in ``calibrate``.
        max_new_tokens: the longest answer.
        batch_size: requests a forward.

    """

    limits: Limits = field(default_factory=Limits)
    layers: Layers = "range"
    gate: bool = True
    trials: int = 160
    generations: int = 16
    surrogate: bool = True
    tune_share: float = 0.5
    seed: int = 0
    instruction: str = INSTRUCTION
    refusal_prompt: str = REFUSAL_PROMPT
    max_new_tokens: int = 128
    batch_size: int = DEFAULT_BATCH


@dataclass(frozen=True)
class Candidate:
    """A setting and the surrogate's estimates of it."""

    setting: Setting
    scores: Scores
    seconds: float


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        steering: calibrated on all pairs, the chosen setting its default, the search in ``metadata["tuning"]``.
        chosen: the setting, and what was measured of it on the tuning pairs.
        points: everything measured by generation; the starting points first.
        undefended: the same requests with no defense.
        prompted: harmful requests only, with the refusal prompt beside them.
        candidates: everything that the surrogate scored; empty where it was not used.
        notes: what a reader must know.

    """

    steering: Steering = field(repr=False)
    chosen: Point
    points: tuple[Point, ...]
    undefended: Measured
    candidates: tuple[Candidate, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def front(self) -> list[Point]:
        """Of what was measured."""
        return pareto_front(self.points, goals)


@dataclass(frozen=True)
class Watch:
    """What is told while a search goes on; both do nothing by default.

    Attributes:
        report: called with the stage, what is done of it, and its whole.
        candidates: called with the surrogate's front whenever a trial is done.
        points: called with all measurements, and the undefended one, whenever there is one more.

    """

    report: Report = lambda *_: None
    candidates: Callable[[list[Candidate]], None] = lambda _: None
    points: Callable[[list[Point], Measured], None] = lambda *_: None


def tune(
    model: AudioLanguageModel,
    pairs: Pairs,
    judge: Judge,
    folder: Path,
    options: Options = Options(),
    watch: Watch = Watch(),
) -> Tuned:
    """Calibrate on some pairs, choose strengths on the others, and calibrate on all of them for the result.

    Args:
        model: the model; not steered.
        pairs: calibration pairs; never those that the result is to be evaluated on.
        judge: tells refusals from compliance.
        folder: keeps the studies, answers and verdicts; a run that was killed goes on from it.
        options: how to search.
        watch: what to tell meanwhile.

    Raises:
        TuningError: too few pairs, no setting keeps to the limits, or the folder is of a run with other settings.
        ModelError: the model shows no activations.

    """
    model.check_steerable()
    _check(options)
    calibrating, tuning = split_pairs(pairs, options.tune_share, options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return _tune(model, pairs, calibrating, tuning, judge, folder, options, watch)


def _tune(
    model: AudioLanguageModel,
    pairs: Pairs,
    calibrating: Pairs,
    tuning: Pairs,
    judge: Judge,
    folder: Path,
    options: Options,
    watch: Watch,
) -> Tuned:
    memory = Memory(folder, _settings(model, pairs, judge, options))
    steering = _calibrated(folder / CALIBRATED, model, calibrating, options, watch, "Calibrating on a part")
    requests = hear(model, tuning, options.instruction, options.refusal_prompt, options.batch_size, watch.report)
    references = answer_all(model, requests, options.max_new_tokens, options.batch_size, watch.report, folder / ANSWERS)
    verdicts = folder / VERDICTS
    instruction = options.instruction
    gates = {}
    if options.gate and steering.gate is not None:
        activations = last_tokens(model, calibrating, instruction, options.batch_size)
        gates = fit_gates(activations, gate_layers(len(steering.refusal)))
    space = Space(steering, options.layers, gates)
    with Measurer(
        model, space, tuning, requests, judge, options.max_new_tokens, options.batch_size, verdicts
    ) as measurer:
        undefended = measurer.judged(references.harmful.texts, references.safe.texts)
        prompted = measurer.judged(references.prompted.texts, references.safe.texts).harmful
        _check_possible(undefended, options.limits)
        candidates, notes = _search(memory, space, model, requests, references, prompted, options, watch)
        points = _measure(memory, space, measurer, candidates, undefended, options, watch)
    chosen = choose(points, undefended, options.limits)
    whole = _calibrated(folder / WHOLE, model, pairs, options, watch, "Calibrating on all")
    layer = chosen.setting.gate_layer
    if layer is not None:
        gate, told = refit(gates[layer], last_tokens(model, pairs, instruction, options.batch_size))
        whole = whole.with_gate(gate)
        notes += told
    notes += unproven(chosen.measured, undefended, options.limits) + _unreadable(points, judge)
    tuned = Tuned(whole, chosen, tuple(points), undefended, tuple(candidates), tuple(notes))
    from sarsteer.tuning.record import recorded

    return replace(tuned, steering=recorded(tuned, options, judge, len(calibrating), len(tuning)))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No second run on the same folder: each would take the other's trial for one that a kill cut off."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock")  # held by the process: a kill gives it free
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TuningError(f"{folder}: another run is at work there; wait for it, or name another output") from None
    try:
        yield
    finally:
        lock.release()


def starting_points(space: Space) -> list[Setting]:
    """Where the search begins: the closed form, the paper's defaults, and its push and twice that above a gate."""
    steering = space.steering
    found = steering.suggest()
    points = [
        Setting.of(steering, found.alpha, found.k, found.lambda_),
        Setting.of(steering, DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA),
    ]
    if space.gates:
        push = points[0].alpha * space.push_at_one(points[0].k, 1.0, points[0].layer_weights)
        best = max(space.gates.values(), key=lambda gate: float(gate.metadata["auroc"])).layer
        points += [space.gated_start(times * push, best, GATED_FPR) for times in (1, 2)]
    return points


def _search(
    memory: Memory,
    space: Space,
    model: AudioLanguageModel,
    requests: Requests,
    references: References,
    prompted: Sequence[str | None],
    options: Options,
    watch: Watch,
) -> tuple[list[Candidate], list[str]]:
    """What the surrogate scored; nothing, and a note, where it cannot be trusted."""
    if not options.surrogate:
        return [], []
    refused = [outcome == "refused" for outcome in prompted]
    with Surrogate(model, space, requests, references, refused, options.batch_size) as surrogate:
        if not surrogate.tokens.usable:
            return [], [
                f"the refusal prompt hardly changes how answers begin (by {surrogate.tokens.change:.0%}): "
                "no surrogate, the search went by generation alone"
            ]
        if (agreed := surrogate.agreement(references)) < AGREEMENT:
            return [], [
                f"first tokens computed by a bare prefill and by generation agree on {agreed:.0%} only: "
                "no surrogate, the search went by generation alone"
            ]

        def objective(setting: Setting) -> tuple[tuple[float, float], dict[str, Any]]:
            scores = surrogate.score(setting)
            return (scores.asr, scores.cost), {"scores": vars(scores)}

        def told(done: int) -> None:
            watch.report(SEARCHING, done, options.trials)
            watch.candidates(_candidates(memory))

        told(len(memory.finished(SURROGATE)))
        memory.search(SURROGATE, space, objective, options.trials, options.seed, starting_points(space), told)
        notes = [] if surrogate.reuses_prefixes else [
            "this family's prefixes cannot be reused: the surrogate saw first tokens alone, and no broken text"
        ]  # fmt: skip
    return _candidates(memory), notes


def _candidates(memory: Memory) -> list[Candidate]:
    return [
        Candidate(Setting.from_json(record["setting"]), Scores(**record["scores"]), record["seconds"])
        for record in memory.records(SURROGATE)
    ]


def _measure(
    memory: Memory,
    space: Space,
    measurer: Measurer,
    candidates: list[Candidate],
    undefended: Measured,
    options: Options,
    watch: Watch,
) -> list[Point]:
    starts = starting_points(space)

    def told(done: int) -> None:
        watch.report(MEASURING, done, options.generations)
        watch.points(memory.points(), undefended)

    told(len(memory.points()))
    if not candidates:

        def objective(setting: Setting) -> tuple[tuple[float, float], dict[str, Any]]:
            measured = measurer.measure(setting)
            return (measured.asr.value, measured.cost), {"measured": measured.to_json()}

        memory.search(GENERATION, space, objective, options.generations, options.seed, starts, told)
        return memory.points()
    front = pareto_front(candidates, lambda c: (c.scores.asr, c.scores.cost))
    guess = _guess(front, candidates[0], undefended, options.limits)
    while True:
        points = memory.points()
        seen = {point.setting: keeps(point.measured, undefended, options.limits) for point in points}
        left = options.generations - len(points)
        setting = next((start for start in starts if start not in seen), None) if left > 0 else None
        if setting is None:
            within = {index: seen[c.setting] for index, c in enumerate(front) if c.setting in seen}
            index = next_on_front([c.scores.cost for c in front], within, guess, left)
            if index is None:
                return points
            setting = front[index].setting
        memory.add(setting, measurer.measure(setting))
        told(len(points) + 1)


def _guess(front: list[Candidate], first: Candidate, undefended: Measured, limits: Limits) -> int:
    """The last place on the front that keeps to the limits by the estimates."""
    allowed = undefended.over_refusal.value + limits.over_refusal
    kept = [
        index
        for index, candidate in enumerate(front)
        if candidate.scores.over_refusal <= allowed and candidate.scores.broken <= max(limits.broken, 0.01)
    ]
    return kept[-1] if kept else 0


def _unreadable(points: Sequence[Point], judge: Judge) -> list[str]:
    told = [outcome for point in points for outcome in (*point.measured.harmful, *point.measured.safe)]
    lost = sum(outcome is None for outcome in told)
    return [f"{lost} of {len(told)} replies of {judge.name} could not be read, and count nowhere"] if lost else []


def _check(options: Options) -> None:
    if not 0 < options.tune_share < 1:
        raise TuningError(f"the tune share must lie between 0 and 1, not {options.tune_share:g}")
    if options.generations < 1 or options.trials < 1:
        raise TuningError("search at least one setting by the surrogate, and measure at least one by generation")


def _check_possible(undefended: Measured, limits: Limits) -> None:
    if undefended.broken.value > limits.broken:
        raise TuningError(
            f"the undefended model breaks {undefended.broken} of its answers, more than the {100 * limits.broken:g} % "
            "allowed: no strength can keep that; allow more, longer answers, or another judge"
        )
    if undefended.asr.value == 0:
        raise TuningError(
            f"the undefended model complies with no harmful tuning request ({undefended.asr}): there is nothing to "
            "lower; use harder pairs, or another judge"
        )


def _settings(model: AudioLanguageModel, pairs: Pairs, judge: Judge, options: Options) -> dict[str, Any]:
    """What a run that goes on must have in common with the one that was cut off."""
    return {
        "search_version": SEARCH_VERSION,
        "model": model.fingerprint.digest,
        "pairs": pairs.digest,
        "judge": judge.signature,
        "layers": options.layers,
        "gate": options.gate,
        "surrogate": options.surrogate,
        "tune_share": options.tune_share,
        "seed": options.seed,
        "instruction": options.instruction,
        "refusal_prompt": options.refusal_prompt,
        "max_new_tokens": options.max_new_tokens,
        "batch_size": options.batch_size,
    }


def _calibrated(
    path: Path, model: AudioLanguageModel, pairs: Pairs, options: Options, watch: Watch, stage: str
) -> Steering:
    """Kept beside the study: a run that goes on does not calibrate again."""
    if path.exists():
        return Steering.load(path)
    checkpoint = path.with_name(f"{path.name}.partial")
    steering = calibrate(
        model,
        pairs,
        options.refusal_prompt,
        options.instruction,
        batch_size=options.batch_size,
        checkpoint=checkpoint,
        progress=lambda done, total: watch.report(stage, done, total),
    )
    steering.save(path)
    checkpoint.unlink(missing_ok=True)
    return steering
