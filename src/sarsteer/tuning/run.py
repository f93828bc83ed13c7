"""Choose a strength by search: a fast surrogate for many configurations, then generation and a judge for the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sarsteer.data.pairs import Pairs
from sarsteer.errors import TuningError
from sarsteer.judges import Judge
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.steering.artifact import Steering
from sarsteer.steering.calibration import calibrate
from sarsteer.tuning.configuration import Gates
from sarsteer.tuning.front import Limits, MeasuredPoint, choose, unproven
from sarsteer.tuning.gates import fit_gates, gate_layers, last_tokens, refit
from sarsteer.tuning.measure import Measured, Measurer
from sarsteer.tuning.options import TuningObserver, TuningOptions
from sarsteer.tuning.references import answer_all, prepare_requests
from sarsteer.tuning.result import Tuned
from sarsteer.tuning.search import estimate, measure
from sarsteer.tuning.space import Space
from sarsteer.tuning.split import request_groups, split_pairs
from sarsteer.tuning.study import ANSWERS, CALIBRATED, VERDICTS, WHOLE, SearchState


def tune(
    model: AudioLanguageModel,
    pairs: Pairs,
    judge: Judge,
    folder: Path,
    options: TuningOptions | None = None,
    observer: TuningObserver | None = None,
) -> Tuned:
    """Calibrate on a part of the pairs, choose a configuration on the others, and calibrate on all of them.

    Args:
        model: the model, unsteered.
        pairs: calibration pairs; never those that the result is evaluated on.
        judge: distinguishes refusals from compliance.
        folder: stores studies, answers and verdicts; a killed run resumes from it.
        options: how to tune; defaults if None.
        observer: callbacks during the search; none if None.

    Raises:
        TuningError: there are too few pairs, no configuration keeps the limits, or the folder is from a run with other
            settings.
        ModelError: the model has no accessible activations.

    """
    options, observer = options or TuningOptions(), observer or TuningObserver()
    model.check_steerable()
    if options.generations < 1 or options.trials < 1:
        raise TuningError("trials and generations must be at least 1")
    split = split_pairs(pairs, options.search.split.tune_share, options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        return _tune(model, pairs, split, judge, folder, options, observer)


def _tune(
    model: AudioLanguageModel,
    pairs: Pairs,
    split: tuple[Pairs, Pairs],
    judge: Judge,
    folder: Path,
    options: TuningOptions,
    observer: TuningObserver,
) -> Tuned:
    calibration_pairs, tuning_pairs = split
    settings = {"model": model.fingerprint.identity, "pairs": pairs.digest, "judge": judge.signature}
    state = SearchState(folder, {**settings, **options.to_json()})
    steering = _calibrate(folder / CALIBRATED, model, calibration_pairs, options, observer, "Calibrating on a part")
    requests = prepare_requests(
        model, tuning_pairs, options.instruction, options.refusal_prompt, options.batch_size, observer.report
    )
    references = answer_all(
        model, requests, options.max_new_tokens, options.batch_size, observer.report, folder / ANSWERS
    )
    gates = _gates(model, steering, calibration_pairs, options)
    space = Space(steering, options.search.space, gates)
    with Measurer(
        model, space, tuning_pairs, requests, judge, options.max_new_tokens, options.batch_size, folder / VERDICTS
    ) as measurer:
        undefended = measurer.judged(references.harmful.texts, references.safe.texts)
        prompted = measurer.judged(references.prompted.texts, references.safe.texts).harmful
        _check_possible(undefended, options.limits)
        candidates, notes = estimate(state, space, model, requests, references, prompted, options, observer)
        points = measure(state, space, measurer, candidates, undefended, options, observer)
    chosen = choose(points, undefended, options.limits)
    whole = _calibrate(folder / WHOLE, model, pairs, options, observer, "Calibrating on all")
    if chosen.configuration.gate is not None:
        measured_gate = gates[chosen.configuration.gate.layer]
        activations = last_tokens(model, pairs, options.instruction, options.batch_size)
        gate, gate_notes = refit(measured_gate, activations, request_groups(pairs))
        whole, notes = whole.with_gate(gate), notes + gate_notes
    notes += unproven(chosen.measured, undefended, options.limits) + _unreadable(points, judge)
    tuned = Tuned(whole, chosen, tuple(points), undefended, tuple(candidates), tuple(notes))
    return tuned.recorded(options, judge, len(calibration_pairs), len(tuning_pairs))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Refuse a second run on the same folder: each would discard the other's running trial as interrupted."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock")  # held by the process, so a kill releases it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TuningError("another run is using it; wait for it, or name another output", place=str(folder)) from None
    try:
        yield
    finally:
        lock.release()


def _gates(model: AudioLanguageModel, steering: Steering, pairs: Pairs, options: TuningOptions) -> Gates:
    config = options.search.space
    if not config.gate or steering.gate is None:
        return {}
    activations = last_tokens(model, pairs, options.instruction, options.batch_size)
    layers = gate_layers(len(steering.refusal), config.gate_layers)
    return fit_gates(activations, layers, request_groups(pairs))


def _unreadable(points: Sequence[MeasuredPoint], judge: Judge) -> list[str]:
    outcomes = [outcome for point in points for outcome in (*point.measured.harmful, *point.measured.safe)]
    lost = sum(outcome is None for outcome in outcomes)
    if not lost:
        return []
    return [f"{lost} of {len(outcomes)} replies of {judge.name} could not be read and are left out of all rates"]


def _check_possible(undefended: Measured, limits: Limits) -> None:
    if undefended.broken.value > limits.broken:
        raise TuningError(
            f"the undefended model breaks {undefended.broken} of its answers, above the limit of "
            f"{100 * limits.broken:g} %, which no strength can keep; raise the limit or the answers' length, or use "
            "another judge"
        )
    if undefended.asr.value == 0:
        raise TuningError(
            f"the undefended model complies with no harmful tuning request ({undefended.asr}), so there is nothing to "
            "lower; use harder pairs, or another judge"
        )


def _calibrate(
    path: Path, model: AudioLanguageModel, pairs: Pairs, options: TuningOptions, observer: TuningObserver, stage: str
) -> Steering:
    """The steering of ``pairs``, stored beside the study: a resumed run does not calibrate again."""
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
        progress=lambda done, total: observer.report(stage, done, total),
    )
    steering.save(path)
    checkpoint.unlink(missing_ok=True)
    return steering
