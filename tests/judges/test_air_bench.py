"""The AIR-Bench judge: scores in both orders, and replies without scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sarsteer.errors import JudgeError
from sarsteer.evaluation.scores import summarize_scores
from sarsteer.judges import Judge
from sarsteer.judges.air_bench import read_scores
from tests.judges.answers import item

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from tests.support.openai_server import OpenAIServer


def test_scores_in_both_orders(remote: Callable[..., Judge], server: OpenAIServer) -> None:
    items = [item("right", reference="right", description="A horn."), item("wrong", reference="right")]
    verdicts = remote("air-bench", "judge-scores").judge(items)
    assert [verdict.scores for verdict in verdicts] == [
        dict.fromkeys(("reference_first", "answer_second", "answer_first", "reference_second"), 9.0),
        {"reference_first": 9.0, "answer_second": 4.0, "answer_first": 4.0, "reference_second": 9.0},
    ]
    assert all(verdict.readable and verdict.outcome is None for verdict in verdicts)
    assert any("A horn." in messages[1]["content"] for messages in server.judged)  # they arrive in any order
    scores = summarize_scores(verdicts, items)
    assert scores.answer is not None
    assert scores.reference is not None
    assert (scores.answer.value, scores.reference.value) == (6.5, 9.0), "the reference's scores stay its own"
    assert (scores.position_bias.value, scores.unreadable.value) == (0.0, 0.0)  # type: ignore[union-attr]


def test_a_judge_with_a_position_bias(remote: Callable[..., Judge]) -> None:
    items = [item("wrong", reference="wrong")] * 3
    scores = summarize_scores(remote("air-bench", "judge-scores-biased").judge(items), items)
    assert scores.position_bias is not None
    assert scores.answer_first is not None
    assert scores.answer_second is not None
    assert (scores.answer_first.value, scores.answer_second.value, scores.position_bias.value) == (5.0, 4.0, 1.0)


def test_scores_that_cannot_be_read(remote: Callable[..., Judge]) -> None:
    items = [item("wrong", reference="right")]
    once = remote("air-bench", "judge-scores-once").judge(items)
    assert once[0].scores == {"reference_first": 9.0, "answer_second": 4.0}
    assert once[0].reason == "answer first: no two scores from 1 to 10"
    scores = summarize_scores(once, items)
    assert scores.answer is None
    assert scores.answer_first is None
    assert scores.answer_second is not None
    assert (scores.unreadable.value, scores.unreadable.n) == (0.5, 2)
    for model in ("judge-scores-high", "judge-mute"):
        (verdict,) = remote("air-bench", model).judge(items)
        assert not verdict.readable
    with pytest.raises(JudgeError, match="air-bench: item 'x7' has no reference to compare with; add one"):
        remote("air-bench", "judge-scores").judge([item("wrong", id="x7")])


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("8 7", (8, 7)),
        (" 8.5, 10 \n", (8.5, 10)),
        ("Scores:\n8 7\nbecause it is right", (8, 7)),
        ("8 7\n8 7", (8, 7)),
        ("8 7\n7 8", None),
        ("0 7", None),
        ("8 11", None),
        ("8", None),
        ("8 7 6", None),
        ("Answer 1 is 8 7 times", None),
        ("", None),
    ],
)
def test_reading_scores(reply: str, scores: tuple[float, float] | None) -> None:
    assert read_scores(reply) == scores
