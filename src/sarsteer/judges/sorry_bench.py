"""SORRY-Bench's own judge: a Mistral 7B, fine-tuned to say 1 (complied) or 0 (Xie et al. 2024, arXiv 2406.14598).

The checkpoint (``sorry-bench/ft-mistral-7b-instruct-v0.2-sorry-bench-202406``) is gated, and its prompt belongs to the
benchmark: both are read from where you keep them. Written as Mistral's instructions are, ``[INST] … [/INST]`` after the
beginning-of-text token; the whole answer, greedily; the leading number of the reply counts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

from sarsteer.errors import AnswerError, JudgeError, SarsteerError
from sarsteer.judges.backend import API_PREFIX, unreadable
from sarsteer.judges.broken import is_broken
from sarsteer.judges.interface import Judge, Judged, Verdict, all_or_stop
from sarsteer.judges.templates import fill, read_judge_prompts

MAX_NEW_TOKENS = 8  # nothing past the leading number is read


class SorryBenchJudge(Judge):
    """1 is ``complied``; 0 is ``refused``, or ``broken`` where the answer is: the judge knows no third.

    Args:
        target: a folder, or a name on the Hub.
        prompts: the benchmark's judge-prompt file, or a text with ``{question}`` and ``{answer}``.
        prompt_name: which of the file's templates.
        options: of ``LocalBackend``.

    """

    name = "sorry-bench"

    def __init__(
        self,
        target: str,
        prompts: str | os.PathLike[str] | None = None,
        prompt_name: str | None = None,
        **options: Any,
    ) -> None:
        if not target or target.startswith(API_PREFIX):
            raise JudgeError("judge 'sorry-bench' runs here; write sorry-bench:FOLDER or sorry-bench:HUB/NAME")
        if prompts is None:
            raise JudgeError(
                "judge 'sorry-bench' needs the benchmark's own judge-prompt file, judge_prompts.jsonl; give prompts"
            )
        from sarsteer.judges.local import LocalBackend

        self._template = read_judge_prompts(prompts, prompt_name)
        self._backend = LocalBackend(target, **options)
        self.at_once = self._backend.at_once
        self.signature = f"sorry-bench/1/{target}/{hashlib.sha256(self._template.encode()).hexdigest()}"

    def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        """As the benchmark does, save that nothing is cut and nothing unreadable is dropped."""
        replies = self._backend.complete([self._prompt(item) for item in items], MAX_NEW_TOKENS)
        return all_or_stop([self._verdict(item, reply) for item, reply in zip(items, replies, strict=True)])

    def _prompt(self, item: Judged) -> str:
        values = {"question": item.question, "answer": item.answer}
        quoted = {name: self._backend.harmless(text, "[INST]", "[/INST]") for name, text in values.items()}
        return f"[INST] {fill(self._template, quoted).strip()} [/INST]"

    @staticmethod
    def _verdict(item: Judged, reply: str | SarsteerError) -> Verdict | SarsteerError:
        if isinstance(reply, SarsteerError):
            return unreadable(reply) if isinstance(reply, AnswerError) else reply
        number = leading_number(reply)
        if number == 1:
            return Verdict("complied", reply)
        if number == 0:
            return (
                Verdict("broken", reply, "0, and no answer at all")
                if is_broken(item.answer)
                else Verdict("refused", reply)
            )
        return Verdict(None, reply, "the reply begins with neither 0 nor 1")


def leading_number(reply: str) -> float | None:
    """The number that ``reply`` begins with, or None."""
    match = re.match(r"\s*([\d.]+)(\w?)", reply)
    if match is None or match[2]:
        return None
    try:
        return float(match[1].rstrip("."))
    except ValueError:
        return None
