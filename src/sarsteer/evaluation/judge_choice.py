"""Which judge reads the answers to which benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.errors import EvaluationError

SCORING = "air-bench"
"""The judge that scores usefulness, and tells no refusals."""
_OF_ONE = re.compile(r"([\w./@-]+)=(.+)", re.DOTALL)


def is_scoring(spec: str) -> bool:
    """Whether a judge gives scores instead of outcomes."""
    return spec.partition(":")[0] == SCORING


def choose_judges(benchmarks: Sequence[LoadedBenchmark], given: str | Sequence[str] | None) -> dict[str, str]:
    """A judge's spec for each benchmark, by the benchmark's name.

    ``BENCHMARK=SPEC`` is for that benchmark alone. Else ``air-bench`` reads what measures how good answers are, and the
    other judge reads the rest, or everything where no ``air-bench`` is given. What then has none gets its own default.

    Raises:
        EvaluationError: a judge names a benchmark that is not there, or two judges would read one, or none reads one
            that has no default; or a benchmark has no references to score against.

    """
    specs = [given] if isinstance(given, str) else list(given or ())
    own: dict[str, str] = {}
    shared: dict[bool, str] = {}
    names = [one.name for one in benchmarks]
    for spec in specs:
        match = _OF_ONE.fullmatch(spec) if "=" in spec.partition(":")[0] else None
        if match is None:
            if is_scoring(spec) in shared:
                raise EvaluationError(
                    f"judges {shared[is_scoring(spec)]!r} and {spec!r}: write BENCHMARK=JUDGE for one"
                )
            shared[is_scoring(spec)] = spec
        elif match[1] not in names:
            raise EvaluationError(f"judge {spec!r}: there is no benchmark {match[1]!r}; name one of {', '.join(names)}")
        elif match[1] in own:
            raise EvaluationError(f"judges of {match[1]!r}: {own[match[1]]!r} and {match[2]!r}; give one")
        else:
            own[match[1]] = match[2]
    chosen = {}
    for one in benchmarks:
        fallback = shared.get(False) or (shared.get(True) if len(specs) == len(shared) == 1 else None)
        wanted = shared.get(True) if measures_usefulness(one) else None
        chosen[one.name] = own.get(one.name) or wanted or fallback or one.judge
        _check(one, chosen[one.name])
    return chosen


def measures_usefulness(benchmark: LoadedBenchmark) -> bool:
    """Whether its own metric is a score, not a rate of refusals."""
    return benchmark.measures_usefulness


def _check(benchmark: LoadedBenchmark, spec: str) -> None:
    if not is_scoring(spec):
        return
    harmful = sum(item.harmful for item in benchmark.items)
    if harmful:
        raise EvaluationError(
            f"{benchmark.name}: judge 'air-bench' scores how useful answers are and tells no refusals, and "
            f"{harmful} of {len(benchmark.items)} requests are harmful; choose another judge for it"
        )
    lacking = [item.id for item in benchmark.items if not item.answer]
    if lacking:
        raise EvaluationError(
            f"{benchmark.name}: judge 'air-bench' compares with a reference answer, and {len(lacking)} of "
            f"{len(benchmark.items)} requests have none, such as {lacking[0]!r}; choose another judge for it"
        )
