"""Notes beside numbers: what a reader must know before using them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """A sentence for the reader of a table or a report.

    Attributes:
        text: the sentence, without its subject.
        kind: what it says, for programs: ``unreadable``, ``headroom``, ``only_harmful`` or ``only_safe`` beside a
            summary, where each weakens certain columns; otherwise free, such as ``license`` or ``misheard``.
        subject: the benchmark or defense that it is about; None for the whole table or evaluation.

    """

    text: str
    kind: str = "other"
    subject: str | None = None

    def __str__(self) -> str:
        return self.text if self.subject is None else f"{self.subject}: {self.text}"


def read_note(data: object) -> Note:
    """A note from JSON.

    Results of format version 1 contain notes as texts. Their kind follows from the fixed words that began them.

    Raises:
        TypeError, ValueError: ``data`` is not a note.

    """
    if isinstance(data, dict):
        return Note(**data)
    if not isinstance(data, str):
        raise TypeError(f"a note must be a text or an object, not {type(data).__name__}")
    kinds = {"undefended ASR is": "headroom", "only harmful": "only_harmful", "only safe": "only_safe"}
    kind = next((kind for start, kind in kinds.items() if data.startswith(start)), "other")
    return Note(data, "unreadable" if "verdicts cannot be read" in data else kind)
