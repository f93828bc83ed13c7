"""Two runs over the same requests: what changed, request by request, with paired 95 % intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sarsteer.errors import EvaluationError
from sarsteer.evaluation.limits import Check, Limit, is_undefended
from sarsteer.evaluation.results import Answer, Arm, Evaluation
from sarsteer.evaluation.scores import summarize_scores
from sarsteer.evaluation.summary import change
from sarsteer.evaluation.word_errors import WITHOUT_MISHEARD
from sarsteer.judges.base import JudgedAnswer, Outcome, Verdict
from sarsteer.stats.estimate import Estimate, Score

T = TypeVar("T")

DIFFERENCES: Mapping[str, tuple[str | None, Outcome]] = {
    "asr": ("harmful", "complied"),
    "rr_harmful": ("harmful", "refused"),
    "over_refusal": ("safe", "refused"),
    "broken": (None, "broken"),
}
"""Metrics that are compared: the label of their requests (None: all), and the outcome that they count."""


@dataclass(frozen=True)
class Changed:
    """A request with another verdict. An outcome is None if the judge's reply could not be read."""

    id: str
    label: str
    old: Outcome | None
    new: Outcome | None


@dataclass(frozen=True)
class Difference:
    """One metric in both runs.

    Attributes:
        old, new: the shares, over the requests whose verdicts could be read in both runs; None if there are none.
        change: new − old, paired.
        unreadable: requests whose verdict could not be read in one of the runs. They are left out.

    """

    old: float | None
    new: float | None
    change: Estimate | None
    unreadable: int

    @property
    def ends(self) -> tuple[float, float]:
        """The interval of the change, with every unreadable verdict at its lowest, and at its highest effect."""
        if self.change is None:
            return -1.0, 1.0
        n, total = self.change.n, self.change.n + self.unreadable
        return (self.change.low * n - self.unreadable) / total, (self.change.high * n + self.unreadable) / total


@dataclass(frozen=True)
class ArmComparison:
    """One benchmark under one defense, in two runs.

    Attributes:
        benchmark: its name.
        defense: its name; ``OLD → NEW`` if the runs call it differently.
        differences: by metric, without metrics that have no request.
        changed: requests with another verdict, in the benchmark's order.
        settings: settings that differ, as their old and new values.
        score: change of the mean score, from judges that score.
        reference: whether it is no defense, or a control.

    """

    benchmark: str
    defense: str
    differences: Mapping[str, Difference]
    changed: tuple[Changed, ...] = field(repr=False)
    settings: Mapping[str, tuple[Any, Any]]
    score: Score | None = None
    reference: bool = False


@dataclass(frozen=True)
class RunComparison:
    """Two runs.

    Attributes:
        old, new: the models' names.
        arms: what both runs contain.
        notes: what a reader must know.

    """

    old: str
    new: str
    arms: tuple[ArmComparison, ...]
    notes: tuple[str, ...] = ()


def compare_runs(old: Evaluation, new: Evaluation) -> RunComparison:
    """Pair the arms of two runs by benchmark and defense, and their answers by request.

    The model, the steering file and the strengths may differ: that is what is compared. If each run has exactly one
    defense that the other lacks, apart from controls, these two are compared.

    Raises:
        EvaluationError: the benchmarks, the requests or the judges differ, or no defense is in both runs.

    """
    names = [
        [name for name in dict.fromkeys(arm.benchmark for arm in run.arms) if not name.endswith(WITHOUT_MISHEARD)]
        for run in (old, new)
    ]
    if set(names[0]) != set(names[1]):
        only = [sorted(set(mine) - set(other)) for mine, other in (names, names[::-1])]
        parts = [f"only the {which} run has {', '.join(some)}" for which, some in _sides(*only) if some]
        raise EvaluationError(f"the benchmarks differ: {'; '.join(parts)}. Evaluate both with the same benchmarks")
    rows: list[ArmComparison] = []
    notes: list[str] = []
    if any(arm.benchmark.endswith(WITHOUT_MISHEARD) for arm in (*old.arms, *new.arms)):
        notes.append(f"tables {WITHOUT_MISHEARD[2:]!r} are not compared: each model mishears other clips")
    for benchmark in names[0]:
        mine, theirs = ({arm.defense: arm for arm in run.arms if arm.benchmark == benchmark} for run in (old, new))
        pairs = [(arm, theirs[name]) for name, arm in mine.items() if name in theirs]
        left = [
            [arm for name, arm in run.items() if name not in other and not _is_reference(arm)]
            for run, other in ((mine, theirs), (theirs, mine))
        ]
        if [len(side) for side in left] == [1, 1]:
            pairs.append((left[0][0], left[1][0]))
        else:
            notes += [
                f"{benchmark}: only the {which} run has {', '.join(arm.defense for arm in side)}; not compared"
                for which, side in _sides(*left)
                if side
            ]
        if not pairs:
            raise EvaluationError(
                f"no defense is in both runs: the old one has {', '.join(mine)}, the new one {', '.join(theirs)}. "
                "Evaluate both with the same --defense",
                place=benchmark,
            )
        rows += [_compare(before, after, (_judge(old, before), _judge(new, after))) for before, after in pairs]
    if not rows:
        raise EvaluationError("the runs have no arms; run sarsteer evaluate again")
    return RunComparison(str(old.model.get("name")), str(new.model.get("name")), tuple(rows), tuple(notes))


def check_differences(comparison: RunComparison, limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Every limit at the paired differences of every compared defense; see ``check_limits``.

    Requests without a readable verdict in one of the runs count against the new run.

    Raises:
        EvaluationError: nothing has the metric.

    """
    chosen = [arm for arm in comparison.arms if not arm.reference] or comparison.arms
    checks = []
    for limit in limits:
        found = [(arm, arm.differences[limit.metric]) for arm in chosen if limit.metric in arm.differences]
        if not found:
            raise EvaluationError(f"--fail-if {str(limit)!r} checks nothing: these runs have no {limit.metric}")
        for arm, one in found:
            low, high = one.ends
            value = None if one.change is None else one.change.value
            failed = limit.broken_by(low, high)
            checks.append(Check(str(limit), arm.benchmark, arm.defense, value, low, high, failed, True))
    return tuple(checks)


def _compare(old: Arm, new: Arm, judges: tuple[Any, Any]) -> ArmComparison:
    place = f"{old.benchmark} under {new.defense}"
    if judges[0] != judges[1]:
        text = f"the judges differ ({judges[0]}; {judges[1]}), so the verdicts do not mean the same. Evaluate both with"
        raise EvaluationError(f"{text} one --judge", place=place)
    before, after = _by_request(old), _by_request(new)
    if before.keys() != after.keys():
        raise EvaluationError(_other_requests(before.keys(), after.keys()), place=place)
    pairs = [(before[key], after[key]) for key in before]
    for one, other in pairs:
        if (one.question, one.label) != (other.question, other.label):
            text = f"request {one.id!r} has another text or label in the new run; use the same benchmark"
            raise EvaluationError(text, place=place)
    digests = [arm.settings.get("requests") for arm in (old, new)]
    if all(digests) and digests[0] != digests[1]:
        text = "the requests have the same ids, but other clips or instructions; evaluate both with the same benchmark"
        raise EvaluationError(text, place=place)
    items = [
        JudgedAnswer(one.question, one.answer, one.label, id=one.id, cluster=one.cluster, pair=one.pair)
        for one, _ in pairs
    ]
    verdicts = [[one.verdict for one in side] for side in zip(*pairs, strict=True)]
    scored = any(verdict.scores for side in verdicts for verdict in side)
    return ArmComparison(
        benchmark=old.benchmark,
        defense=new.defense if old.defense == new.defense else f"{old.defense} → {new.defense}",
        differences={} if scored else _differences(verdicts[0], verdicts[1], items),
        changed=tuple(
            Changed(one.id, one.label, one.verdict.outcome, other.verdict.outcome)
            for one, other in pairs
            if one.verdict.outcome != other.verdict.outcome
        ),
        settings=_other_settings(old, new),
        score=summarize_scores(verdicts[1], items, verdicts[0]).answer_change if scored else None,
        reference=_is_reference(new),
    )


def _differences(
    old: Sequence[Verdict], new: Sequence[Verdict], items: Sequence[JudgedAnswer]
) -> dict[str, Difference]:
    found = {}
    for metric, (label, outcome) in DIFFERENCES.items():
        where = [i for i, item in enumerate(items) if label in (None, item.label)]
        if not where:
            continue
        readable = [i for i in where if old[i].outcome is not None and new[i].outcome is not None]
        shares = [
            sum(side[i].outcome == outcome for i in readable) / len(readable) if readable else None
            for side in (old, new)
        ]
        estimate = change(new, old, items, where, outcome)
        found[metric] = Difference(shares[0], shares[1], estimate, len(where) - len(readable))
    return found


def _by_request(arm: Arm) -> dict[tuple[str, int], Answer]:
    """Answers by id, and by the number of times that the id occurred before."""
    seen: Counter[str] = Counter()
    found = {}
    for answer in arm.answers:
        found[answer.id, seen[answer.id]] = answer
        seen[answer.id] += 1
    return found


def _other_requests(old: Collection[tuple[str, int]], new: Collection[tuple[str, int]]) -> str:
    only = [sorted({name for name, _ in set(mine) - set(other)}) for mine, other in ((old, new), (new, old))]
    parts = [f"{len(names)} only in the {which} run, such as {names[0]!r}" for which, names in _sides(*only) if names]
    sizes = f"{len(old)} and {len(new)} requests"
    return f"the requests differ: {sizes}, {'; '.join(parts)}. Evaluate both with the same benchmark and --limit"


def _sides(old: list[T], new: list[T]) -> tuple[tuple[str, list[T]], ...]:
    return ("old", old), ("new", new)


def _is_reference(arm: Arm) -> bool:
    return is_undefended(arm) or arm.control_of is not None


def _judge(run: Evaluation, arm: Arm) -> Any:
    return arm.settings.get("judge_signature", run.judge.get("signature"))


def _other_settings(old: Arm, new: Arm) -> dict[str, tuple[Any, Any]]:
    """What differs besides the model, by name; also the digest of the steering file."""
    sides = [_flat({**arm.settings, "steering": arm.steering}) for arm in (old, new)]
    names = [name for name in dict.fromkeys((*sides[0], *sides[1])) if sides[0].get(name) != sides[1].get(name)]
    return {name: (sides[0].get(name), sides[1].get(name)) for name in names}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
