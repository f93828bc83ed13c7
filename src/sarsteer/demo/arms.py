"""Judge the answers of one defense, and count: an arm of the demo's evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sarsteer.data.manifest import Item
from sarsteer.data.text import words
from sarsteer.evaluation.results import Answer, Arm
from sarsteer.evaluation.summary import summarize
from sarsteer.judges.base import Judge, JudgedAnswer


def judged_arm(
    benchmark: str,
    label: str,
    settings: Mapping[str, Any],
    items: Sequence[Item],
    answers: Sequence[str],
    texts: Sequence[str],
    judge: Judge,
    undefended: Arm | None = None,
    *,
    steering: str | None = None,
    transcripts: Sequence[str] | None = None,
    directions: Sequence[int | None] | None = None,
    control: Arm | None = None,
    control_of: str | None = None,
) -> Arm:
    """The arm of one defense.

    Args:
        benchmark: name of the requests.
        label: the defense in tables.
        settings: everything that shaped the answers, as JSON.
        items: the requests.
        answers: one for each request.
        texts: the instruction beside each request.
        judge: decides what an answer is.
        undefended: the arm without defense, to compare with.
        steering: digest of the steering file, if one is used.
        transcripts: what the model wrote down for each request.
        directions: the direction that each request met, under a control with several.
        control: the arm under random directions, to compute the gain over it.
        control_of: the name of the defense that this one controls.

    """
    judged = [
        JudgedAnswer(
            item.question,
            answer,
            "harmful" if item.harmful else "safe",
            reference=item.answer,
            category=item.category,
            id=item.id,
            pair=item.pair,
        )
        for item, answer in zip(items, answers, strict=True)
    ]
    verdicts = judge.judge(judged)
    random = None if control is None else [answer.verdict for answer in control.answers]
    heard: Sequence[str | None] = [None] * len(items) if transcripts is None else transcripts
    met = [None] * len(items) if directions is None else directions
    before = None if undefended is None else [answer.verdict for answer in undefended.answers]
    return Arm(
        benchmark=benchmark,
        defense=label,
        settings=settings,
        summary=summarize(verdicts, judged, before, random),
        answers=tuple(
            Answer(
                item.id,
                item.question,
                one.label,
                one.answer,
                verdict,
                category=item.category,
                pair=item.pair,
                audio=None if item.media is None else str(item.media),
                text=text,
                wer=None if transcript is None else word_error_rate(item.question, transcript),
                transcript=transcript,
                direction=direction,
            )
            for item, one, verdict, text, transcript, direction in zip(
                items, judged, verdicts, texts, heard, met, strict=True
            )
        ),
        steering=steering,
        control_of=control_of,
    )


def word_error_rate(said: str, transcript: str) -> float:
    """Inserted, deleted and replaced words, over the words that were said."""
    one, other = words(said), words(transcript)
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != heard))
    return row[-1] / max(1, len(one))
