"""The logs of a finished run: complete, one for each arm, or an error that says what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sarsteer.errors import EvaluationError
from sarsteer.evaluation.inspect import logs

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog


def finished_logs(arms: Sequence[tuple[str, str]], folder: Path) -> list[EvalLog]:
    """The complete log of each arm, in order. Older logs of the same arms are deleted.

    Args:
        arms: names of benchmark and defense.
        folder: of the logs.

    Raises:
        EvaluationError: an arm did not finish, or some requests have no answer or no verdict.
        KeyboardInterrupt: the user stopped the run; Inspect catches Ctrl-C and returns.

    """
    newest: dict[tuple[str, str], EvalLog] = {}
    for header in logs.read_headers(folder):  # oldest first
        if logs.key_of(header) in arms:  # arms of earlier runs that this run leaves out do not count
            newest[logs.key_of(header)] = header
    if any(log.status == "cancelled" for log in newest.values()):
        raise KeyboardInterrupt
    complete: list[EvalLog] = []
    failures: list[str] = []
    for benchmark, defense in arms:
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
            f"are stored in {folder.parent}; fix the cause and run the same command again"
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
