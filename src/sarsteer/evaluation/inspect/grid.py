"""Run benchmarks under defenses through Inspect: one log per arm, and a killed run resumes from its logs.

``eval_set`` pairs each arm with its newest log and reuses its samples. A log is rewritten as a whole, atomically, after
every batch, but at most about ``WRITES`` times per arm, because logs contain their clips, and at the latest a minute
after an answer.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import EvaluationError
from sarsteer.evaluation.arms import ArmTask, Grid
from sarsteer.evaluation.inspect import logs, process

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalLog

Progress = Callable[[str, int, int], None]
STAGE = "Answering and judging"
WRITES = 32
"""How often the log of a large arm is written, approximately. More writes lose less if the run is killed."""


def run_grid(grid: Grid, progress: Progress | None = None) -> list[EvalLog]:
    """Answer and judge everything that is not done yet; returns the complete log of each arm.

    Raises:
        EvaluationError: logs in the folder have other settings or are damaged, or some requests have no answer or no
            verdict. What was done is kept.

    """
    folder = grid.folder / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    settings = [grid.settings(arm) for arm in grid.arms]
    headers = logs.read_headers(folder)
    logs.check_same(headers, settings)
    counter = _Counter(progress, _done(headers, grid), sum(len(arm.benchmark.items) for arm in grid.arms))
    for judge in grid.judges.values():
        judge.on_verdict = counter.count
    gc.collect()
    gc.freeze()  # the objects of a loaded model need not be traversed each time a log is written
    try:
        with process.serving(grid.judges):
            tasks = [_task(grid, arm, chosen) for arm, chosen in zip(grid.arms, settings, strict=True)]
            _run_tasks(tasks, folder, grid)
    finally:
        gc.unfreeze()
        for judge in grid.judges.values():
            judge.on_verdict = None
    return _finished(grid, folder)


def _run_tasks(tasks: list[Task], folder: Path, grid: Grid) -> None:
    from inspect_ai import eval_set

    batch_size = grid.shared.batch_size
    largest = max(len(arm.benchmark.items) for arm in grid.arms)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Inspect prints a line if everything is done already
            eval_set(
                tasks,
                log_dir=str(folder),
                log_dir_allow_dirty=True,  # arms may be added and left out; check_same has compared the logs
                retry_attempts=0,
                retry_immediate=False,
                max_tasks=1,
                display="none",
                log_level="error",
                log_format="eval",
                max_samples=3 * batch_size,  # one batch at the model, one waiting, one at the judge
                log_buffer=max(batch_size, -(-largest // WRITES)),
                log_realtime=False,
                fail_on_error=True,
                continue_on_fail=True,
                ctl_server=False,
                acp_server=False,
            )
    except (OSError, ValueError) as error:
        raise EvaluationError(f"Inspect cannot continue ({error})", place=str(folder)) from error


class _Counter:
    """Counts verdicts for a progress bar."""

    def __init__(self, progress: Progress | None, done: int, total: int) -> None:
        self._progress, self._done, self._total = progress, done, total
        self._report()

    def count(self) -> None:
        self._done += 1
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(STAGE, min(self._done, self._total), self._total)


def _task(grid: Grid, arm: ArmTask, settings: dict[str, Any]) -> Task:
    from inspect_ai.model import get_model

    from sarsteer.evaluation.inspect import _registry  # noqa: F401 - registers the provider, installed or not
    from sarsteer.evaluation.inspect.tasks import build_task

    benchmark, defense = arm.key
    name = re.sub(r"[^\w.=-]+", "-", f"{benchmark}--{defense}")[:60]
    suffix = hashlib.sha256(f"{benchmark}\0{defense}".encode()).hexdigest()[:6]
    about = {**settings, "model": dict(grid.shared.identity), "steering": arm.defense.steering}
    task = build_task(
        arm.benchmark,
        arm.judge.spec,
        grid.max_new_tokens,
        name=f"{name}-{suffix}",
        metadata={logs.SETTINGS: settings, "arm": about},
    )
    key = process.put_arm(grid.shared, arm.defense)
    task.model = get_model(f"sarsteer/{grid.shared.model.name}", memoize=False, defense=defense, arm=key)
    return task


def _done(headers: Sequence[EvalLog], grid: Grid) -> int:
    """The number of requests that are already answered and judged."""
    done: dict[tuple[str, str], set[str]] = {}
    for header in headers:
        done.setdefault(logs.key_of(header), set()).update(logs.answered(header))
    return sum(len(done.get(arm.key, ())) for arm in grid.arms)


def _finished(grid: Grid, folder: Path) -> list[EvalLog]:
    keys = [arm.key for arm in grid.arms]
    newest: dict[tuple[str, str], EvalLog] = {}
    for header in logs.read_headers(folder):  # oldest first
        if logs.key_of(header) in keys:  # arms of earlier runs that this run leaves out do not count
            newest[logs.key_of(header)] = header
    if any(log.status == "cancelled" for log in newest.values()):  # Inspect catches Ctrl-C and returns
        raise KeyboardInterrupt
    complete = []
    failures: list[str] = []
    for benchmark, defense in keys:
        arm = f"{benchmark} under {defense}"
        if (benchmark, defense) not in newest:
            raise EvaluationError(f"{arm} has no log; run the same command again", place=str(folder))
        log = logs.read_samples(newest[benchmark, defense])
        failed = [f"{arm}, {one.id}: {one.error.message}" for one in log.samples or () if one.error is not None]
        if log.status != "success" and not failed and not failures:
            reason = log.error.message if log.error is not None else f"it is {log.status}"
            raise EvaluationError(f"{arm} did not finish ({reason}); run the same command again")
        failures += failed
        complete.append(log)
    if failures:
        total = sum(len(log.samples or ()) for log in complete)
        raise EvaluationError(
            f"{len(failures)} of {total} requests have no answer or no verdict; the first: {failures[0]}; all others "
            f"are stored in {grid.folder}; fix the cause and run the same command again"
        )
    _delete_older(folder, newest.values())
    return complete


def _delete_older(folder: Path, newest: Iterable[EvalLog]) -> None:
    """Delete the logs of killed attempts: the finished logs contain all their samples."""
    for log in newest:
        if log.status == "success":
            for path in folder.glob(f"*_{log.eval.task_id}*.eval"):
                if path != logs.path_of(log):
                    path.unlink()
