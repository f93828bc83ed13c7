"""Requests that are answered under many defenses, batch by batch: what their prompts share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sarsteer.data.manifest import Item
from sarsteer.defenses.built import UNDEFENDED, BuiltDefense
from sarsteer.demo.progress import Progress
from sarsteer.errors import ModelError
from sarsteer.messages import Message
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.continuation import endings, same_change
from sarsteer.models.prompt import Prompt
from sarsteer.models.shared_prefix import PREFILL
from sarsteer.runtime.answerer import Answerer, Reply

INSTRUCTION = "Please answer the question in the audio."
"""Beside every clip."""
TRANSCRIBE = "Repeat the words."
"""Asks for a transcript; ``sarsteer-small`` was trained on these words."""
BATCH = 32


@dataclass(frozen=True)
class Ask:
    """One way to ask every request.

    Attributes:
        defense: to apply.
        max_new_tokens: the longest answer, in tokens.
        instruction: the text beside each clip.

    """

    defense: BuiltDefense
    max_new_tokens: int
    instruction: str = INSTRUCTION

    def conversation(self, item: Item) -> list[Message]:
        """What the model receives, without the steering."""
        return self.defense.prompt.apply(item.turn(self.instruction))

    @property
    def is_plain(self) -> bool:
        """Whether the prompt is the undefended one."""
        return self == Ask(self.defense, self.max_new_tokens) and self.defense.prompt is UNDEFENDED.prompt


def transcribe(max_new_tokens: int) -> Ask:
    """Ask for a transcript, without a defense."""
    return Ask(UNDEFENDED, max_new_tokens, TRANSCRIBE)


class Requests:
    """Requests with encoded clips.

    Args:
        name: in tables.
        items: spoken requests.
        model: a model that ``shares_prefixes``.
        progress: called while clips are encoded.

    """

    def __init__(self, name: str, items: Sequence[Item], model: AudioLanguageModel, progress: Progress) -> None:
        self.name, self.items, self._model = name, tuple(items), model
        self._prompts: list[Prompt] = []
        for start in range(0, len(items), BATCH):
            progress(f"Encoding the {name}", start, len(items))
            turns = [item.turn(INSTRUCTION) for item in items[start : start + BATCH]]
            self._prompts += model.prepare(turns, remember=False)
        progress(f"Encoding the {name}", len(items), len(items))

    @property
    def spoken(self) -> bool:
        """Whether the requests are clips, which can be transcribed."""
        return all(item.media is not None for item in self.items)

    def answer(self, answerer: Answerer, asks: Sequence[Ask], progress: Progress) -> list[list[Reply]]:
        """The replies to each of ``asks``, in the order of the requests.

        Raises:
            ModelError: the prompts do not end alike.
            SteeringError: the model would not be steered exactly.

        """
        stage = f"Answering the {self.name}"
        last, drop = self._endings(asks)
        replies: list[list[Any]] = [[None] * len(self.items) for _ in asks]
        # a change of the prompt's end comes first: the plain end then becomes part of what the others share
        order = sorted(range(len(asks)), key=lambda number: asks[number].is_plain)
        total, done = len(asks) * len(self.items), 0
        progress(stage, done, total)
        for rows in self._batches(asks):
            prompts = [self._prompts[row] for row in rows]
            prefix = answerer.share_prefix(prompts, drop)
            extended = False
            for number in order:
                ask, tokens = asks[number], last[number]
                if ask.is_plain:
                    if not extended:
                        answerer.extend_prefix(prefix, tokens[:-PREFILL])
                        extended = True
                    tokens = tokens[-PREFILL:]
                defense = ask.defense.member_for(prompts[0])
                answered = answerer.answer_after(defense, prefix, tokens, ask.max_new_tokens)
                for row, reply in zip(rows, answered, strict=True):
                    replies[number][row] = reply
                done += len(rows)
                progress(stage, done, total)
        return replies

    def _batches(self, asks: Sequence[Ask]) -> list[list[int]]:
        """Rows of similar length, in which every pooled defense has the same member for all rows."""
        pools = [ask.defense for ask in asks if ask.defense.pool]
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(self._prompts):
            members = tuple(defense.pool.index(defense.member_for(prompt)) for defense in pools)
            groups.setdefault(members, []).append(row)
        batches: list[list[int]] = []
        for rows in groups.values():
            prompts = [self._prompts[row] for row in rows]
            batches += [[rows[i] for i in batch] for batch in self._model.batches(prompts, BATCH)]
        return batches

    def _endings(self, asks: Sequence[Ask]) -> tuple[list[torch.Tensor], int]:
        """The tokens after what all prompts of a request share, for each ask; and how many plain ones they are."""
        plain = [prompt.input_ids for prompt in self._prompts]
        turns = [item.turn(INSTRUCTION) for item in self.items]
        asked: list[list[torch.Tensor]] = []
        for ask in asks:
            if ask.is_plain:
                asked.append(plain)
                continue
            conversations = [ask.conversation(item) for item in self.items]
            if self.spoken and not same_change(turns, conversations):
                raise ModelError("a defense changes the prompts of two requests differently; call Answerer.answer")
            # the tokens of a clip are placeholders, so one prompt shows the change; with words, each is compared
            some = conversations[:1] if self.spoken else conversations
            asked.append([prompt.input_ids for prompt in self._model.prepare(some, remember=False)])
        drop = max([PREFILL] + [len(endings(plain[0], rows[0])[0]) for rows in asked])
        last = [rows[0][len(plain[0]) - drop :] for rows in asked]
        # the plain prompts are compared even if no ask is plain: what they share is computed for all rows
        for rows, tokens in ((plain, plain[0][-drop:]), *zip(asked, last, strict=True)):
            for row, unchanged in zip(rows, plain, strict=False):
                if not torch.equal(row, torch.cat([unchanged[:-drop], tokens])):
                    raise ModelError("the prompts do not end with the same tokens; call Answerer.answer")
        return last, drop
