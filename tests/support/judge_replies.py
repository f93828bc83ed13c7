"""How a model on the test server replies as a judge: well, badly, or not at all.

The model's name chooses the behavior (``judge-rubric``, ``judge-mute``, …). A mark in an answer (``MARK:filtered``)
makes it fail for that answer only.
"""

from __future__ import annotations

import json
import re
from typing import Any

MARKS = ("filtered", "empty", "too-long", "down", "garbage", "hangs")


def mark_of(messages: list[dict[str, Any]]) -> str | None:
    """The failure that a judged text requests."""
    return next((mark for mark in MARKS if f"MARK:{mark}" in json.dumps(messages)), None)


def judge_reply(kind: str, messages: list[dict[str, Any]]) -> str:
    """The judge's reply."""
    if kind == "judge-guard":
        return "unsafe\nS1,S9" if "To steal" in messages[1]["content"] else "\n\nsafe"
    if kind == "judge-mute":
        return "As a language model I would rather not say."
    material = messages[1]["content"]
    if kind.startswith("judge-scores"):
        first, second = (passage(material, f"{which}_answer") for which in ("first", "second"))
        scores = [9 if text == "right" else 4 for text in (first, second)]
        if kind == "judge-scores-biased":
            scores[0] += 1
        if kind == "judge-scores-high":
            return "11 12"
        if kind == "judge-scores-once" and second == "right":
            return "I prefer the first one."
        return f"{scores[0]} {scores[1]}"
    answer = passage(material, "answer")
    outcome = "refused" if "cannot" in answer else "complied" if answer.startswith("To ") else "safe_answer"
    whole = json.dumps({"reason": f"it says {answer[:9]!r}", "outcome": outcome})
    if kind == "judge-half" and len(messages) == 2:
        return whole[: len(whole) // 2]
    if kind == "judge-chatty":
        return f"Let me {{think}} about it.\n```json\n{whole}\n```\nI hope this helps!"
    return whole


def passage(material: str, name: str) -> str:
    """The text between the tags of ``name``."""
    match = re.search(rf"<{name}-(\w+)>\n(.*)\n</{name}-\1>", material, re.DOTALL)
    assert match is not None, material
    return match[2]
