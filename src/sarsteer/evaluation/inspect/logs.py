"""Find, check and read the Inspect logs of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import EvaluationError

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

CLIPS = {"attachments", "events", "events_data", "messages", "store"}
"""Fields of a logged sample that contain its clip or refer to it. No number depends on them."""
SETTINGS = "sarsteer"
"""The key of the arm's settings in a log's metadata."""


def read_headers(folder: Path) -> list[EvalLog]:
    """The headers of all logs.

    Raises:
        EvaluationError: one is damaged.

    """
    return [_read(path, header_only=True) for path in log_files(folder)]


def log_files(folder: Path) -> list[Path]:
    """The logs, oldest first."""
    return sorted(folder.glob("*.eval")) if folder.is_dir() else []


def read_samples(log: EvalLog) -> EvalLog:
    """The whole log of a header, but without the clips, which may be gigabytes."""
    return _read(path_of(log), header_only=False, exclude_fields=CLIPS)


def path_of(log: EvalLog) -> Path:
    """The log's file."""
    return Path(re.sub(r"^file://", "", log.location))


def count_answered(headers: Sequence[EvalLog], arms: Sequence[tuple[str, str]]) -> int:
    """The number of requests of these arms that have an answer and a verdict in some log."""
    answered: dict[tuple[str, str], set[str]] = {}
    for header in headers:
        answered.setdefault(key_of(header), set()).update(_answered(header))
    return sum(len(answered.get(arm, ())) for arm in arms)


def _answered(log: EvalLog) -> set[str]:
    from inspect_ai.log import read_eval_log_sample_summaries

    try:
        return {str(one.id) for one in read_eval_log_sample_summaries(log.location) if one.error is None and one.scores}
    except Exception as error:  # a damaged archive can raise anything
        raise _damaged(path_of(log), error) from None


def settings_of(log: EvalLog) -> dict[str, Any]:
    """The settings of the log's arm.

    Raises:
        EvaluationError: the log does not belong to a run of ``sarsteer evaluate``.

    """
    settings = (log.eval.metadata or {}).get(SETTINGS)
    if not isinstance(settings, dict):
        raise EvaluationError(
            "is not a log of sarsteer evaluate; move it away, or choose another --out", place=str(path_of(log))
        )
    return settings


def key_of(log: EvalLog) -> tuple[str, str]:
    """The names of benchmark and defense."""
    settings = settings_of(log)
    return settings["benchmark"], settings["defense"]


def difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> Iterator[str]:
    """Each difference between two settings, in words."""
    for key in (*old, *(key for key in new if key not in old)):
        before, after = old.get(key), new.get(key)
        name = f"{where}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            yield from difference(before, after, f"{name}.")
        elif before != after:
            yield f"{name} {_short(before)}, now {_short(after)}"


def check_same(headers: Sequence[EvalLog], arms: Sequence[dict[str, Any]]) -> None:
    """Check that a run can continue from these logs.

    Arms may be added and left out. What all arms share, and the settings of each arm that has a log, must be equal.

    Raises:
        EvaluationError: the settings differ; the message says in what.

    """
    arms = json.loads(json.dumps(arms))  # as in a log: a tuple becomes a list
    for header in headers:
        old = settings_of(header)
        same_benchmark = [arm for arm in arms if arm["benchmark"] == old["benchmark"]]
        same_arm = [arm for arm in same_benchmark if arm["defense"] == old["defense"]]
        new = (same_arm or same_benchmark or arms)[0]
        # arms share the settings of their run, and those of one benchmark share its content
        compared = ("content", "settings") if same_arm else ("content",) if same_benchmark else ()
        before, now = ({**one["run"], **{key: one[key] for key in compared}} for one in (old, new))
        differences = list(difference(before, now))
        if differences:
            raise EvaluationError(
                f"was started with other settings: {'; '.join(differences)}; use the same settings, or choose another "
                "--out",
                place=str(path_of(header).parent.parent),
            )


def _short(value: Any) -> str:
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 24 else text[:14] + "…" + text[-6:]


def _read(path: Path, **options: Any) -> EvalLog:
    from inspect_ai.log import read_eval_log

    try:
        return read_eval_log(str(path), **options)
    except Exception as error:  # a damaged archive can raise anything
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> EvaluationError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
    return EvaluationError(
        f"is cut off or damaged ({reason}); delete it and run the same command again, which asks its requests again",
        place=str(path),
    )
