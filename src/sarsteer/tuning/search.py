"""The two stages of the search: estimate many configurations by first tokens, then measure the best by generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.tuning.configuration import Configuration
from sarsteer.tuning.front import Candidate, Limits, MeasuredPoint, keeps, next_on_front, pareto_front
from sarsteer.tuning.measure import Measured, Measurer
from sarsteer.tuning.options import MEASURING, SEARCHING, TuningObserver, TuningOptions
from sarsteer.tuning.references import References, Requests
from sarsteer.tuning.space import Space
from sarsteer.tuning.study import GENERATION, SURROGATE, SearchState
from sarsteer.tuning.surrogate import Surrogate

Objectives = tuple[tuple[float, float], dict[str, Any]]


def estimate(
    state: SearchState,
    space: Space,
    model: AudioLanguageModel,
    requests: Requests,
    references: References,
    prompted: Sequence[str | None],
    options: TuningOptions,
    observer: TuningObserver,
) -> tuple[list[Candidate], list[str]]:
    """All candidates of the surrogate; none, and a note, if it cannot be trusted for this model.

    ``prompted`` are the judge's outcomes for the answers with the refusal prompt.
    """
    config = options.search.surrogate
    if not config.enabled:
        return [], []
    refused = [outcome == "refused" for outcome in prompted]
    with Surrogate(model, space, requests, references, refused, options.batch_size, config) as surrogate:
        if not surrogate.tokens.usable:
            return [], [
                f"the refusal prompt hardly changes the first tokens of answers (by {surrogate.tokens.change:.0%}), so "
                "the search used generation only"
            ]
        if (agreement := surrogate.agreement(references)) < config.min_agreement:
            return [], [
                f"first tokens from a prefill and from generation agree on only {agreement:.0%}, so the search used "
                "generation only"
            ]

        def objective(configuration: Configuration) -> Objectives:
            scores = surrogate.score(configuration)
            return (scores.asr, scores.cost), {"scores": vars(scores)}

        def report(done: int) -> None:
            observer.report(SEARCHING, done, options.trials)
            observer.candidates(state.candidates())

        report(len(state.finished(SURROGATE)))
        _run(state, SURROGATE, space, objective, options.trials, options, report)
        notes = [] if surrogate.reuses_prefixes else [
            "this model's prefixes cannot be reused: the surrogate used first tokens only, and cannot see broken text"
        ]  # fmt: skip
    return state.candidates(), notes


def measure(
    state: SearchState,
    space: Space,
    measurer: Measurer,
    candidates: list[Candidate],
    undefended: Measured,
    options: TuningOptions,
    observer: TuningObserver,
) -> list[MeasuredPoint]:
    """Measure ``options.generations`` configurations: starting points, then points on the candidates' front.

    Without candidates the sampler chooses them.
    """

    def report(done: int) -> None:
        observer.report(MEASURING, done, options.generations)
        observer.points(state.points(), undefended)

    report(len(state.points()))
    if not candidates:

        def objective(configuration: Configuration) -> Objectives:
            measured = measurer.measure(configuration)
            return (measured.asr.value, measured.cost), {"measured": measured.to_json()}

        _run(state, GENERATION, space, objective, options.generations, options, report)
        return state.points()
    front = pareto_front(candidates, lambda c: (c.scores.asr, c.scores.cost))
    guess = _guess(front, undefended, options.limits)
    starts = space.starting_points()
    while True:
        points = state.points()
        configuration = _next(front, guess, starts, points, undefended, options)
        if configuration is None:
            return points
        state.add(MeasuredPoint(configuration, measurer.measure(configuration)))
        report(len(points) + 1)


def _run(
    state: SearchState, name: str, space: Space, objective: Any, trials: int, options: TuningOptions, report: Any
) -> None:
    startup = options.search.sampler.startup_trials
    state.search(name, space, objective, trials, options.seed, space.starting_points(), report, startup)


def _next(
    front: list[Candidate],
    guess: int,
    starts: list[Configuration],
    points: list[MeasuredPoint],
    undefended: Measured,
    options: TuningOptions,
) -> Configuration | None:
    """The next configuration to measure; None if the budget is spent or nothing is left."""
    left = options.generations - len(points)
    measured = {point.configuration: keeps(point.measured, undefended, options.limits) for point in points}
    start = next((start for start in starts if start not in measured), None) if left > 0 else None
    if start is not None:
        return start
    within = {index: measured[c.configuration] for index, c in enumerate(front) if c.configuration in measured}
    index = next_on_front([c.scores.cost for c in front], within, guess, left)
    return None if index is None else front[index].configuration


def _guess(front: list[Candidate], undefended: Measured, limits: Limits) -> int:
    """The last point of the front that keeps the limits according to the estimates."""
    allowed = undefended.over_refusal.value + limits.over_refusal
    within = [
        index
        for index, candidate in enumerate(front)
        if candidate.scores.over_refusal <= allowed and candidate.scores.broken <= max(limits.broken, 0.01)
    ]
    return within[-1] if within else 0
