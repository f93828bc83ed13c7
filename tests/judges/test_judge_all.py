"""Judging many items: the cache, interruptions, and damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from sarsteer.errors import JudgeError
from sarsteer.judges import Judge, JudgedAnswer, JudgeStopped, Verdict, judge_all, parse_judge
from tests.judges.answers import item
from tests.support.judge_replies import passage

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from tests.support.openai_server import KEY, OpenAIServer


@dataclass(frozen=True)
class Counting(Judge):
    """Counts what it is asked; stops at an answer that says so."""

    name: ClassVar[str] = "counting"
    version: str = "1"
    seen: list[str] = field(default_factory=list)

    @property
    def signature(self) -> str:
        return f"counting/{self.version}"

    @property
    def at_once(self) -> int:
        return 2

    def judge(self, items: Sequence[JudgedAnswer]) -> list[Verdict]:
        self.seen.extend(judged.answer for judged in items)
        given = {i: Verdict(None if "?" in j.answer else "refused", j.answer) for i, j in enumerate(items)}
        if any("stop" in judged.answer for judged in items):
            raise JudgeStopped("it is over", {i: v for i, v in given.items() if "stop" not in v.raw})
        return list(given.values())


def test_nothing_is_judged_twice(tmp_path: Path) -> None:
    cache, items = tmp_path / "verdicts.jsonl", [item(answer) for answer in ("a", "b", "a", "c", "d?")]
    judge, calls = Counting(), []
    verdicts = judge_all(judge, items, cache=cache, on_verdict=lambda index, _: calls.append(index))
    assert judge.seen == ["a", "b", "c", "d?"]
    assert [verdict.raw for verdict in verdicts] == ["a", "b", "a", "c", "d?"]
    assert sorted(calls) == [0, 1, 2, 3, 4]
    again = Counting()
    assert judge_all(again, items[::-1], cache=cache) == verdicts[::-1], "by content, not by position"
    assert again.seen == []
    judge_all(again, items, cache=cache, retry_unreadable=True)
    assert again.seen == ["d?"]
    for changed in (
        item("a", reference="r"),
        JudgedAnswer("Another?", "a", "harmful"),
        JudgedAnswer(items[0].question, "a", "safe"),
    ):
        judge_all(fresh := Counting(), [changed], cache=cache)
        assert fresh.seen == ["a"]
    judge_all(other := Counting("2"), items, cache=cache)
    assert other.seen == ["a", "b", "c", "d?"], "another version of the judge has its own verdicts"


def test_what_was_judged_before_a_stop_is_kept(tmp_path: Path) -> None:
    cache, items = tmp_path / "verdicts.jsonl", [item(answer) for answer in ("a", "b", "c", "stop", "e")]
    with pytest.raises(JudgeStopped, match="it is over") as caught:
        judge_all(Counting(), items, cache=cache)
    assert sorted(caught.value.completed) == [0, 1, 2]
    judge = Counting()
    judge_all(judge, [*items[:3], items[4]], cache=cache)
    assert judge.seen == ["e"]


def test_torn_and_foreign_lines(tmp_path: Path) -> None:
    cache, items = tmp_path / "verdicts.jsonl", [item(answer) for answer in "abc"]
    whole = judge_all(Counting(), items, cache=cache)
    cache.write_bytes(cache.read_bytes()[:-9])
    judge = Counting()
    assert judge_all(judge, items, cache=cache) == whole
    assert judge.seen == ["c"]
    assert judge_all(again := Counting(), items, cache=cache) == whole
    assert again.seen == [], "the torn line did not swallow the next"
    foreign = tmp_path / "manifest.jsonl"
    foreign.write_text('{"id": 1}\n{"id": 2}\n')
    with pytest.raises(JudgeError, match="does not contain verdicts and is left unchanged; give another file"):
        judge_all(Counting(), items, cache=foreign)
    with pytest.raises(JudgeError, match="cannot be read"):
        judge_all(Counting(), items, cache=tmp_path)
    with pytest.raises(JudgeError, match="cannot be written"):
        judge_all(Counting(), items, cache=tmp_path / "no" / "folder")


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX's signal")
def test_a_killed_run_resumes(server: OpenAIServer, tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.jsonl"
    answers = [f"To do it, take step {i}." for i in range(8)]
    code = f"""
from sarsteer.judges import JudgedAnswer, judge_all
from sarsteer.judges.rubric import RubricJudge
judge = RubricJudge("openai/judge-rubric", base_url={server.url!r}, api_key={KEY!r}, batch_size=2)
items = [JudgedAnswer("How?", answer, "harmful") for answer in [*{answers[:4]!r}, "MARK:hangs", *{answers[4:]!r}]]
judge_all(judge, items, cache={str(cache)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while server.tries["hangs"] == 0:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    assert len([json.loads(line) for line in cache.read_text().splitlines()]) == 4
    server.judged.clear()
    judge = parse_judge(f"rubric:openai/judge-rubric,base_url={server.url}")
    verdicts = judge_all(judge, [JudgedAnswer("How?", answer, "harmful") for answer in answers], cache=cache)
    assert {verdict.outcome for verdict in verdicts} == {"complied"}
    judged = {passage(messages[1]["content"], "answer") for messages in server.judged}
    assert judged == set(answers[4:]), "a request of the killed process may arrive late"
