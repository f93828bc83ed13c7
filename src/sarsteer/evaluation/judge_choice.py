"""Which judge reads the answers to which benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.errors import EvaluationError

SCORING = "air-bench"
"""The judge that scores usefulness and does not recognize refusals."""
_FOR_ONE_BENCHMARK = re.compile(r"([\w./@-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class JudgeChoice:
    """A judge that the user chose.

    Attributes:
        spec: the judge.
        benchmark: the name of the only benchmark that it reads; None for all that fit.

    """

    spec: str
    benchmark: str | None = None

    @property
    def scores(self) -> bool:
        """Whether it scores answers instead of sorting them into outcomes."""
        return is_scoring(self.spec)


def is_scoring(spec: str) -> bool:
    """Whether a judge gives scores instead of outcomes."""
    return spec.partition(":")[0] == SCORING


def parse_judges(texts: Sequence[str]) -> tuple[JudgeChoice, ...]:
    """Judges from ``SPEC`` or ``BENCHMARK=SPEC``.

    Raises:
        EvaluationError: two judges would read the same benchmarks.

    """
    choices = []
    for text in texts:
        match = _FOR_ONE_BENCHMARK.fullmatch(text) if "=" in text.partition(":")[0] else None
        choices.append(JudgeChoice(text) if match is None else JudgeChoice(match[2], match[1]))
    for number, choice in enumerate(choices):
        for other in choices[:number]:
            if choice.benchmark is not None and choice.benchmark == other.benchmark:
                raise EvaluationError(
                    f"benchmark {choice.benchmark!r} has two judges, {other.spec!r} and {choice.spec!r}; pass one"
                )
            if choice.benchmark is None and other.benchmark is None and choice.scores == other.scores:
                raise EvaluationError(
                    f"judges {other.spec!r} and {choice.spec!r} read the same benchmarks; write BENCHMARK=JUDGE for one"
                )
    return tuple(choices)


def choose_judges(benchmarks: Sequence[LoadedBenchmark], choices: Sequence[JudgeChoice]) -> dict[str, str]:
    """A judge's spec for each benchmark, by the benchmark's name.

    ``BENCHMARK=SPEC`` is for this benchmark only. Otherwise ``air-bench`` reads the benchmarks that measure usefulness,
    and the other judge reads the rest, or everything if there is no ``air-bench``. A benchmark without any of these
    has its own default.

    Raises:
        EvaluationError: a choice names an unknown benchmark, or a scoring judge cannot read a benchmark.

    """
    names = [one.name for one in benchmarks]
    for choice in choices:
        if choice.benchmark is not None and choice.benchmark not in names:
            raise EvaluationError(
                f"judge {choice.benchmark}={choice.spec}: there is no benchmark {choice.benchmark!r}; use one of "
                f"{', '.join(names)}"
            )
    of_one = {choice.benchmark: choice.spec for choice in choices if choice.benchmark is not None}
    scorer, sorter = (
        next((choice.spec for choice in choices if choice.benchmark is None and choice.scores is scores), None)
        for scores in (True, False)
    )
    if sorter is None and not of_one:
        sorter = scorer  # the only judge reads everything
    chosen: dict[str, str] = {}
    for one in benchmarks:
        by_metric = scorer if one.measures_usefulness else None
        chosen[one.name] = of_one.get(one.name) or by_metric or sorter or one.judge
        _check(one, chosen[one.name])
    return chosen


def _check(benchmark: LoadedBenchmark, spec: str) -> None:
    if not is_scoring(spec):
        return
    harmful = sum(item.harmful for item in benchmark.items)
    if harmful:
        raise EvaluationError(
            f"judge {SCORING!r} scores how useful answers are and does not recognize refusals, and {harmful} of "
            f"{len(benchmark.items)} requests are harmful; choose another judge for this benchmark",
            place=benchmark.name,
        )
    without_reference = [item.id for item in benchmark.items if not item.answer]
    if without_reference:
        raise EvaluationError(
            f"judge {SCORING!r} compares with a reference answer, and {len(without_reference)} of "
            f"{len(benchmark.items)} requests have none, such as {without_reference[0]!r}; choose another judge for "
            "this benchmark",
            place=benchmark.name,
        )
