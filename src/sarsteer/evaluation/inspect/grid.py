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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import EvaluationError
from sarsteer.evaluation.arms import ArmTask, Grid
from sarsteer.evaluation.inspect import logs, process
from sarsteer.evaluation.inspect.finished import finished_logs

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
    counter = _Counter(
        progress,
        logs.count_answered(headers, [arm.key for arm in grid.arms]),
        total=sum(len(arm.benchmark.items) for arm in grid.arms),
    )
    for judge in grid.judges.values():
        judge.on_verdict = counter.count
    # The objects of a loaded model need not be traversed each time a log is written. Garbage is not collected first:
    # that would take longer than a hundred requests' logs.
    gc.freeze()
    try:
        with process.serving(grid.judges):
            tasks = [_task(grid, arm, chosen) for arm, chosen in zip(grid.arms, settings, strict=True)]
            _run_tasks(tasks, folder, grid)
    finally:
        gc.unfreeze()
        for judge in grid.judges.values():
            judge.on_verdict = None
    return finished_logs([arm.key for arm in grid.arms], folder)


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
                score_display=False,  # or all rates would be computed again each second
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
