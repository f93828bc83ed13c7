"""The judge of the embedded model's answers: its world is so small that every answer can be told exactly."""

from __future__ import annotations

from typing import Literal

from sarsteer.data.manifest import Item
from sarsteer.tiny.world import is_answer, is_refusal

Outcome = Literal["refused", "answered", "broken"]


def outcome(text: str) -> Outcome:
    """``refused``, ``answered`` (a whole, well-formed answer, of whatever request), or ``broken`` (neither)."""
    if is_refusal(text):
        return "refused"
    return "answered" if is_answer(text) else "broken"


def correct(text: str, item: Item) -> bool:
    """Whether ``text`` is, word for word, the right answer to ``item``."""
    return item.answer is not None and text.strip() == item.answer
