"""Inspect's logs of a run: found, checked, and read."""

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
"""Fields of a logged sample that hold its clip, or point to it, and that no number is made of."""
OURS = "sarsteer"
"""Where a log's metadata keep the settings of its arm."""


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
    """The log that a header is of, with its answers and verdicts but without their clips, which may be gigabytes."""
    return _read(path_of(log), header_only=False, exclude_fields=CLIPS)


def path_of(log: EvalLog) -> Path:
    """Where a log lies."""
    return Path(re.sub(r"^file://", "", log.location))


def answered(log: EvalLog) -> set[str]:
    """Ids of the requests that have an answer and a verdict in a log."""
    from inspect_ai.log import read_eval_log_sample_summaries

    try:
        return {str(one.id) for one in read_eval_log_sample_summaries(log.location) if one.error is None and one.scores}
    except Exception as error:  # whatever a damaged archive makes a reader raise
        raise _damaged(path_of(log), error) from None


def settings_of(log: EvalLog) -> dict[str, Any]:
    """What ``sarsteer evaluate`` wrote of the arm.

    Raises:
        EvaluationError: the log is not of such a run.

    """
    found = (log.eval.metadata or {}).get(OURS)
    if not isinstance(found, dict):
        raise EvaluationError(f"{path_of(log)}: is no log of sarsteer evaluate; move it away, or name another --out")
    return found


def difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> Iterator[str]:
    """What differs between two settings, in words."""
    for key in (*old, *(key for key in new if key not in old)):
        before, after = old.get(key), new.get(key)
        name = f"{where}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            yield from difference(before, after, f"{name}.")
        elif before != after:
            yield f"{name} {_short(before)}, now {_short(after)}"


def check_same(headers: Sequence[EvalLog], arms: Sequence[dict[str, Any]]) -> None:
    """Refuse to go on with logs that were made with other settings.

    An arm that the logs do not have yet may be added, and one that they have be left out; what all arms share, and what
    each had, must be as it was.

    Raises:
        EvaluationError: naming what differs.

    """
    arms = json.loads(json.dumps(arms))  # as the logs hold them: a tuple comes back as a list
    for header in headers:
        old = settings_of(header)
        same = [arm for arm in arms if (arm["benchmark"], arm["defense"]) == (old["benchmark"], old["defense"])]
        if same:
            new = same[0]
        else:
            keys = ("run",) if all(arm["benchmark"] != old["benchmark"] for arm in arms) else ("run", "content")
            match = next((arm for arm in arms if arm["benchmark"] == old["benchmark"]), arms[0])
            old, new = {key: old[key] for key in keys}, {key: match[key] for key in keys}
        found = [text.replace("run.", "", 1) for text in difference(old, new)]
        if found:
            raise EvaluationError(
                f"{path_of(header).parent.parent}: was begun with other settings: {'; '.join(found)}; "
                "give the same again, or name another --out"
            )


def _short(value: Any) -> str:
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 24 else text[:14] + "…" + text[-6:]


def _read(path: Path, **options: Any) -> EvalLog:
    from inspect_ai.log import read_eval_log

    try:
        return read_eval_log(str(path), **options)
    except Exception as error:  # whatever a damaged archive makes a reader raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> EvaluationError:
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
    return EvaluationError(
        f"{path}: is cut or damaged ({why}); delete it and run the same command again, its answers are made anew"
    )
