"""Judge many items, with a cache of verdicts that survives interruptions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sarsteer.errors import JudgeError
from sarsteer.judges.base import OUTCOMES, Judge, JudgedAnswer, JudgeStopped, Verdict

OnVerdict = Callable[[int, Verdict], None]


def judge_all(
    judge: Judge,
    items: Sequence[JudgedAnswer],
    *,
    cache: str | os.PathLike[str] | None = None,
    on_verdict: OnVerdict | None = None,
    retry_unreadable: bool = False,
) -> list[Verdict]:
    """One verdict per item.

    A cached verdict is found by everything that it depends on (the judge with its model and wording; question, answer,
    label, reference and description), never by position or id: a changed answer is judged again, an equal one is not.

    Args:
        judge: the judge.
        items: what to judge.
        cache: a JSON Lines file, created if it does not exist. An incomplete line is ignored and judged again.
        on_verdict: called with an item's index and its verdict as soon as the verdict is known.
        retry_unreadable: judge again if the cached verdict could not be read.

    Raises:
        JudgeStopped: the judge cannot continue. ``completed`` and the cache hold all verdicts so far.
        JudgeError: the cache cannot be read or written.

    """
    keys = [_key(judge, item) for item in items]
    known = {} if cache is None else _load(Path(cache))
    if retry_unreadable:
        known = {key: verdict for key, verdict in known.items() if verdict.readable}
    indices: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        indices.setdefault(key, []).append(index)
    verdicts: dict[int, Verdict] = {}

    def settle(key: str, verdict: Verdict) -> None:
        for index in indices[key]:
            verdicts[index] = verdict
            if on_verdict is not None:
                on_verdict(index, verdict)

    for key in indices:
        if key in known:
            settle(key, known[key])
    todo = [key for key in indices if key not in known]
    for start in range(0, len(todo), judge.at_once):
        chunk = todo[start : start + judge.at_once]
        stopped: JudgeStopped | None = None
        try:
            judged = dict(enumerate(judge.judge([items[indices[key][0]] for key in chunk])))
        except JudgeStopped as error:
            judged, stopped = error.completed, error
        fresh = [(chunk[i], verdict) for i, verdict in sorted(judged.items())]
        if cache is not None:
            _append(Path(cache), fresh)
        for key, verdict in fresh:
            settle(key, verdict)
        if stopped is not None:
            raise JudgeStopped(str(stopped), verdicts) from stopped
    return [verdicts[index] for index in range(len(items))]


def _key(judge: Judge, item: JudgedAnswer) -> str:
    parts = [judge.signature, item.question, item.answer, item.label, item.reference, item.description]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load(path: Path) -> dict[str, Verdict]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise JudgeError(
            f"the verdicts cannot be read ({error.strerror or error}); give a file", place=str(path)
        ) from None
    verdicts = dict(row for row in map(_row, lines) if row is not None)
    if len([line for line in lines if line.strip()]) > 1 and not verdicts:
        raise JudgeError("does not contain verdicts and is left unchanged; give another file", place=str(path))
    return verdicts


def _row(line: bytes) -> tuple[str, Verdict] | None:
    try:
        row: Any = json.loads(line)
        verdict = Verdict(row["outcome"], row["raw"], row["reason"], row["scores"])
        valid = verdict.outcome in (None, *OUTCOMES) and isinstance(row["key"], str) and isinstance(verdict.raw, str)
    except (ValueError, KeyError, TypeError):
        return None
    return (row["key"], verdict) if valid else None


def _append(path: Path, fresh: Sequence[tuple[str, Verdict]]) -> None:
    text = "".join(json.dumps({"key": key, **asdict(verdict)}) + "\n" for key, verdict in fresh)
    try:
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # an incomplete line: begin a new one after it
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise JudgeError(
            f"the verdicts cannot be written ({error.strerror or error}); give another file", place=str(path)
        ) from None
