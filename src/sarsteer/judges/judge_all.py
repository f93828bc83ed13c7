"""Judge many items, and lose nothing: verdicts are written as they come, and found again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sarsteer.errors import JudgeError
from sarsteer.judges.interface import OUTCOMES, Judge, Judged, JudgeStopped, Verdict

OnVerdict = Callable[[int, Verdict], None]


def judge_all(
    judge: Judge,
    items: Sequence[Judged],
    *,
    cache: str | os.PathLike[str] | None = None,
    on_verdict: OnVerdict | None = None,
    retry_unreadable: bool = False,
) -> list[Verdict]:
    """One verdict for each item.

    Verdicts are found again by what they depend on (the judge with its model and wording; the question, the answer, the
    label, the reference), never by place or id: a changed answer is judged anew, the same one never twice.

    Args:
        judge: the judge.
        items: what to judge.
        cache: a file in JSON Lines, made where there is none. A line that was torn by a kill is judged again.
        on_verdict: called with an item's index and its verdict, as soon as it is known.
        retry_unreadable: ask again for cached verdicts that could not be read.

    Raises:
        JudgeStopped: the judge cannot go on. ``completed`` holds all verdicts so far, and so does the cache.
        JudgeError: the cache cannot be read or written.

    """
    keys = [_key(judge, item) for item in items]
    known = {} if cache is None else _load(Path(cache))
    if retry_unreadable:
        known = {key: verdict for key, verdict in known.items() if verdict.readable}
    places: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    verdicts: dict[int, Verdict] = {}

    def settle(key: str, verdict: Verdict) -> None:
        for index in places[key]:
            verdicts[index] = verdict
            if on_verdict is not None:
                on_verdict(index, verdict)

    for key in places:
        if key in known:
            settle(key, known[key])
    todo = [key for key in places if key not in known]
    for start in range(0, len(todo), judge.at_once):
        chunk = todo[start : start + judge.at_once]
        stopped: JudgeStopped | None = None
        try:
            given = dict(enumerate(judge.judge([items[places[key][0]] for key in chunk])))
        except JudgeStopped as error:
            given, stopped = error.completed, error
        fresh = [(chunk[i], verdict) for i, verdict in sorted(given.items())]
        if cache is not None:
            _append(Path(cache), fresh)
        for key, verdict in fresh:
            settle(key, verdict)
        if stopped is not None:
            raise JudgeStopped(str(stopped), verdicts) from stopped
    return [verdicts[index] for index in range(len(items))]


def _key(judge: Judge, item: Judged) -> str:
    parts = [judge.signature, item.question, item.answer, item.label, item.reference, item.description]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load(path: Path) -> dict[str, Verdict]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise JudgeError(f"{path}: the verdicts cannot be read ({error.strerror or error}); name a file") from None
    found = dict(row for row in map(_row, lines) if row is not None)
    if len([line for line in lines if line.strip()]) > 1 and not found:
        raise JudgeError(f"{path}: holds no verdicts; name another file, this one will not be added to")
    return found


def _row(line: bytes) -> tuple[str, Verdict] | None:
    try:
        row: Any = json.loads(line)
        verdict = Verdict(row["outcome"], row["raw"], row["reason"], row["scores"])
        sound = verdict.outcome in (None, *OUTCOMES) and isinstance(row["key"], str) and isinstance(verdict.raw, str)
    except (ValueError, KeyError, TypeError):
        return None
    return (row["key"], verdict) if sound else None


def _append(path: Path, fresh: Sequence[tuple[str, Verdict]]) -> None:
    text = "".join(json.dumps({"key": key, **asdict(verdict)}) + "\n" for key, verdict in fresh)
    try:
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a torn line: it keeps its own line, and what is new begins another
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise JudgeError(f"{path}: the verdicts cannot be written ({error.strerror or error}); name another") from None
