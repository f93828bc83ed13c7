"""Run benchmarks under defences through Inspect: one log an arm, and a run that was killed goes on where it was.

``eval_set`` pairs each arm with its newest log and takes over what it holds. A log is rewritten whole, and atomically,
after every batch, though at most about ``WRITES`` times in an arm, since logs hold their clips, and a minute after an
answer at the latest.
"""

from __future__ import annotations

import gc
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.defenses import Defense
from sarsteer.errors import EvaluationError
from sarsteer.evaluation.identity import identity
from sarsteer.evaluation.inspect import logs
from sarsteer.runtime.shared import SharedModel, put_arm, shared_judge

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalLog

Progress = Callable[[str, int, int], None]
STAGE = "Answering and judging"
WRITES = 32
"""How often a large arm's log is written whole, about: the oftener, the less is lost by a kill."""


@dataclass(frozen=True)
class Arm:
    """One benchmark under one defence.

    Attributes:
        sweep: the strength, where the arm is a point of a curve and no row of the table.
        base: the defence whose strength it is.

    """

    benchmark: LoadedBenchmark
    defense: Defense
    sweep: float | None = None
    base: str = ""


@dataclass(frozen=True)
class Grid:
    """All that a run is made of.

    Attributes:
        folder: of its logs and results.
        judges: a judge's spec for each benchmark, by name.

    """

    shared: SharedModel = field(repr=False)
    arms: Sequence[Arm]
    judges: dict[str, str]
    folder: Path
    limit: int | None = None
    max_new_tokens: int = 256

    def settings(self, arm: Arm) -> dict[str, Any]:
        """What a log must agree on to be gone on with; names alone are compared apart."""
        model = identity(self.shared.model)
        loose = ("device", "name") if "fingerprint" in model else ()  # its weights tell a model from another
        judge = self.judges[arm.benchmark.name]
        return {
            "benchmark": arm.benchmark.name,
            "defense": arm.defense.name,
            "run": {
                "model": {key: value for key, value in model.items() if key not in loose},
                "limit": self.limit,
                "max_new_tokens": self.max_new_tokens,
            },
            "content": {
                "requests": arm.benchmark.digest,
                "judge": judge,
                "judge_signature": shared_judge(judge).judge.signature,
            },
            "settings": dict(arm.defense.settings),
        }


def run_grid(grid: Grid, progress: Progress | None = None) -> list[EvalLog]:
    """Answer and judge all that is not done yet; returns the finished logs, whole, one for each arm in its order.

    Raises:
        EvaluationError: logs in the folder were made with other settings, or are damaged; or some requests found no
            answer or no verdict. What was done is kept.

    """
    from inspect_ai import eval_set

    folder = grid.folder / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    settings = [grid.settings(arm) for arm in grid.arms]
    headers = logs.read_headers(folder)
    logs.check_same(headers, settings)
    total = sum(len(arm.benchmark.items) for arm in grid.arms)
    count = _Counter(progress, _done(headers, settings), total)
    for spec in set(grid.judges.values()):
        shared_judge(spec).on_verdict = count.one
    tasks = [_task(grid, arm, told) for arm, told in zip(grid.arms, settings, strict=True)]
    largest = max(len(arm.benchmark.items) for arm in grid.arms)
    gc.collect()
    gc.freeze()  # what a loaded model is made of would be looked through again and again while logs are written
    try:
        eval_set(
            tasks,
            log_dir=str(folder),
            log_dir_allow_dirty=True,  # arms may be added and left out; what is there was checked above
            retry_attempts=0,
            retry_immediate=False,
            max_tasks=1,
            display="none",
            log_level="error",
            log_format="eval",
            max_samples=3 * grid.shared.batch_size,  # a batch answered, one gathered, one with the judge
            log_buffer=max(grid.shared.batch_size, -(-largest // WRITES)),
            log_realtime=False,
            fail_on_error=True,
            continue_on_fail=True,
            ctl_server=False,
            acp_server=False,
        )
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{folder}: Inspect cannot go on ({error})") from error
    finally:
        gc.unfreeze()
        for spec in set(grid.judges.values()):
            shared_judge(spec).on_verdict = None
    return _finished(grid, folder, settings)


class _Counter:
    """Verdicts so far, for a progress bar."""

    def __init__(self, progress: Progress | None, done: int, total: int) -> None:
        self._progress, self._done, self._total = progress, done, total
        self._tell()

    def one(self) -> None:
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(STAGE, min(self._done, self._total), self._total)


def _task(grid: Grid, arm: Arm, settings: dict[str, Any]) -> Task:
    from inspect_ai.model import get_model

    from sarsteer.evaluation.inspect import _registry  # noqa: F401 - names the provider, installed or not
    from sarsteer.evaluation.inspect.tasks import build_task

    key = put_arm(grid.shared, arm.defense)
    name = re.sub(r"[^\w.=-]+", "-", f"{arm.benchmark.name}--{arm.defense.name}")[:60]
    mark = hashlib.sha256(f"{arm.benchmark.name}\0{arm.defense.name}".encode()).hexdigest()[:6]
    about = {**settings, "model": identity(grid.shared.model), "steering": arm.defense.steering}
    task = build_task(
        arm.benchmark,
        grid.judges[arm.benchmark.name],
        grid.max_new_tokens,
        name=f"{name}-{mark}",
        metadata={logs.OURS: settings, "arm": about},
    )
    task.model = get_model(f"sarsteer/{grid.shared.model.name}", memoize=False, defense=arm.defense.name, arm=key)
    return task


def _done(headers: Sequence[EvalLog], settings: Sequence[dict[str, Any]]) -> int:
    """Requests that need not be asked again."""
    done: dict[tuple[str, str], set[str]] = {}
    for header in headers:
        told = logs.settings_of(header)
        done.setdefault((told["benchmark"], told["defense"]), set()).update(logs.answered(header))
    return sum(len(done.get((told["benchmark"], told["defense"]), ())) for told in settings)


def _finished(grid: Grid, folder: Path, settings: Sequence[dict[str, Any]]) -> list[EvalLog]:
    wanted = [(told["benchmark"], told["defense"]) for told in settings]
    newest: dict[tuple[str, str], EvalLog] = {}
    for header in logs.read_headers(folder):  # oldest first; arms of earlier runs that this one left out do not count
        about = logs.settings_of(header)
        if (about["benchmark"], about["defense"]) in wanted:
            newest[about["benchmark"], about["defense"]] = header
    if any(log.status == "cancelled" for log in newest.values()):  # Inspect takes Ctrl-C for itself, and returns
        raise KeyboardInterrupt
    whole, bad, first = [], 0, ""
    for told in settings:
        if (told["benchmark"], told["defense"]) not in newest:
            raise EvaluationError(f"{told['benchmark']} under {told['defense']} has no log in {folder}; run it again")
        log = logs.read_samples(newest[told["benchmark"], told["defense"]])
        for sample in log.samples or ():
            if sample.error is not None:
                bad += 1
                first = (
                    first or f"{told['benchmark']} under {told['defense']}, {sample.id}: {_plain(sample.error.message)}"
                )
        if log.status != "success" and not bad:
            why = log.error.message if log.error is not None else f"it is {log.status}"
            raise EvaluationError(f"{told['benchmark']} under {told['defense']} did not end ({why}); run it again")
        whole.append(log)
    if bad:
        asked = sum(len(log.samples or ()) for log in whole)
        raise EvaluationError(
            f"{bad} of {asked} requests have no answer or no verdict; the first: {first}; all others are kept, "
            f"mend this and run the same command again ({grid.folder})"
        )
    _clear(folder, newest.values())
    return whole


def _plain(message: str) -> str:
    """An error's own words: Inspect logs its ``repr``."""
    found = re.fullmatch(r"\w+\((['\"])(.*)\1\)", message.strip(), re.DOTALL)
    return found[2].replace("\\'", "'") if found else message.strip()


def _clear(folder: Path, newest: Iterable[EvalLog]) -> None:
    """Delete logs of killed attempts: all that they hold is in the finished ones."""
    for log in newest:
        if log.status == "success":
            for path in folder.glob(f"*_{log.eval.task_id}*.eval"):
                if path != logs.path_of(log):
                    path.unlink()
