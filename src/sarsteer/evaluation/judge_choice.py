"""Which judge reads the answers to which benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.errors import EvaluationError, did_you_mean
from sarsteer.judges.base import Judge
from sarsteer.judges.registry import parse_judge

_FOR_ONE_BENCHMARK = re.compile(r"([\w./@-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class PlannedJudge:
    """A judge, and what it reads.

    Attributes:
        spec: its name in logs and reports: the user's text.
        benchmark: the name of the only benchmark that it reads; None for all that fit.

    """

    spec: str
    judge: Judge
    benchmark: str | None = None

    @classmethod
    def parse(cls, text: str) -> PlannedJudge:
        """From ``SPEC`` or ``BENCHMARK=SPEC``.

        Raises:
            JudgeError: there is no such judge, or an option is invalid.

        """
        match = _FOR_ONE_BENCHMARK.fullmatch(text) if "=" in text.partition(":")[0].partition(",")[0] else None
        spec = text if match is None else match[2]
        return cls(spec, parse_judge(spec), None if match is None else match[1])


def parse_judges(texts: Sequence[str]) -> tuple[PlannedJudge, ...]:
    """The judges that the user chose.

    Raises:
        JudgeError: there is no such judge, or an option is invalid.
        EvaluationError: two judges would read the same benchmarks.

    """
    planned = tuple(map(PlannedJudge.parse, texts))
    for number, one in enumerate(planned):
        for other in planned[:number]:
            if one.benchmark is not None and one.benchmark == other.benchmark:
                raise EvaluationError(
                    f"benchmark {one.benchmark!r} has two judges, {other.spec!r} and {one.spec!r}; pass one"
                )
            if one.benchmark is None and other.benchmark is None and one.judge.scoring == other.judge.scoring:
                raise EvaluationError(
                    f"judges {other.spec!r} and {one.spec!r} read the same benchmarks; write BENCHMARK=JUDGE for one"
                )
    return planned


def choose_judges(benchmarks: Sequence[LoadedBenchmark], planned: Sequence[PlannedJudge]) -> dict[str, PlannedJudge]:
    """A judge for each benchmark, by the benchmark's name.

    ``BENCHMARK=SPEC`` is for this benchmark only. Otherwise a scoring judge reads the benchmarks that measure
    usefulness, and another judge reads the rest, or everything if there is no scoring judge. A benchmark without any of
    these has its own default.

    Raises:
        EvaluationError: there is a judge for an unknown benchmark, or a scoring judge cannot read a benchmark.

    """
    names = [one.name for one in benchmarks]
    for one in planned:
        if one.benchmark is not None and one.benchmark not in names:
            raise EvaluationError(
                f"judge {one.benchmark}={one.spec}: there is no benchmark {one.benchmark!r}; use one of "
                f"{', '.join(names)}" + did_you_mean(one.benchmark, names)
            )
    for_one = {one.benchmark: one for one in planned if one.benchmark is not None}
    scorer, sorter = (
        next((one for one in planned if one.benchmark is None and one.judge.scoring is scoring), None)
        for scoring in (True, False)
    )
    if sorter is None and not for_one:
        sorter = scorer  # the only judge reads everything
    chosen: dict[str, PlannedJudge] = {}
    for benchmark in benchmarks:
        by_metric = scorer if benchmark.measures_usefulness else None
        judge = for_one.get(benchmark.name) or by_metric or sorter or PlannedJudge.parse(benchmark.judge)
        if judge.judge.scoring:
            _check_scorable(benchmark, judge.judge)
        chosen[benchmark.name] = judge
    return chosen


def refusal_judge(chosen: Mapping[str, PlannedJudge]) -> PlannedJudge | None:
    """The first judge that recognizes refusals; None if all score."""
    return next((one for one in chosen.values() if not one.judge.scoring), None)


def _check_scorable(benchmark: LoadedBenchmark, judge: Judge) -> None:
    harmful = sum(item.harmful for item in benchmark.items)
    if harmful:
        raise EvaluationError(
            f"judge {judge.name!r} scores how useful answers are and does not recognize refusals, and {harmful} of "
            f"{len(benchmark.items)} requests are harmful; choose another judge for this benchmark",
            place=benchmark.name,
        )
    without_reference = [item.id for item in benchmark.items if not item.answer]
    if without_reference:
        raise EvaluationError(
            f"judge {judge.name!r} compares with a reference answer, and {len(without_reference)} of "
            f"{len(benchmark.items)} requests have none, such as {without_reference[0]!r}; choose another judge for "
            "this benchmark",
            place=benchmark.name,
        )
