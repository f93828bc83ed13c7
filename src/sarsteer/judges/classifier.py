"""Classifiers trained to detect harm: they read the request and the answer and reply in a fixed form."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from sarsteer.judges.backend import Reply
from sarsteer.judges.base import Judge, JudgedAnswer, Verdict, all_or_stop
from sarsteer.judges.templates import fill, read_template
from sarsteer.judges.text_model import TextModelOptions, read_reply
from sarsteer.messages import Message
from sarsteer.registry import option

MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Classifier(TextModelOptions, Judge):
    """A judge that asks a classifier about each answer."""

    prompts: Path | None = option(
        None, help="text file with {question} and {answer}; by default both are turns in the model's chat template"
    )

    @cached_property
    def _template(self) -> str | None:
        return None if self.prompts is None else read_template(self.prompts, ("question", "answer"))

    @property
    def signature(self) -> str:
        """Name, version, model with its server or revision, and the prompt file's wording."""
        wording = "" if self._template is None else hashlib.sha256(self._template.encode()).hexdigest()
        return f"{self.name}/1/{self.identity}/{wording}"

    def load(self) -> None:
        """Read the prompt file and load the model."""
        _ = self._template
        super().load()

    def judge(self, items: Sequence[JudgedAnswer]) -> list[Verdict]:
        """One classification per answer."""
        # chat templates fail on an empty turn, or drop it; an empty answer needs no classifier
        nonempty = [item for item in items if item.answer.strip()]
        replies = iter(self._ask(nonempty) if nonempty else ())
        empty = Verdict("broken", "", "the answer is empty; the judge was not asked")
        return all_or_stop(
            [read_reply(next(replies), partial(self.read, item)) if item.answer.strip() else empty for item in items]
        )

    @abstractmethod
    def read(self, item: JudgedAnswer, reply: str) -> Verdict:
        """The verdict that the classifier's reply means."""

    def _ask(self, items: Sequence[JudgedAnswer]) -> list[Reply]:
        from sarsteer.judges.local_backend import LocalBackend

        backend, template = self.backend, self._template
        if template is None:
            return backend.ask([_turns(item) for item in items], MAX_NEW_TOKENS)
        if isinstance(backend, LocalBackend):
            split = backend.split_control_tokens
            prompts = [fill(template, {"question": split(i.question), "answer": split(i.answer)}) for i in items]
            return backend.complete(prompts, MAX_NEW_TOKENS)
        prompts = [fill(template, {"question": item.question, "answer": item.answer}) for item in items]
        return backend.ask([[{"role": "user", "content": prompt}] for prompt in prompts], MAX_NEW_TOKENS)


def _turns(item: JudgedAnswer) -> list[Message]:
    return [{"role": "user", "content": item.question}, {"role": "assistant", "content": item.answer}]
