"""One model under many defences: prompts are changed on the way in, vectors switched in place between batches."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.interface import UNDEFENDED, Defense
from sarsteer.errors import SarsteerError, SteeringError
from sarsteer.messages import Conversation
from sarsteer.models.interface import DEFAULT_BATCH, LanguageModel
from sarsteer.prompts import GUARD_REFUSAL

if TYPE_CHECKING:
    from sarsteer.steering.handle import SteeringHandle


@dataclass(frozen=True)
class Reply:
    """What was answered, and what a log should know of how."""

    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Answerer:
    """Answers under any defence with one loaded model. Steering is attached and proven once, then only rewritten.

    Safe to call from several threads; they take turns.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._handle: SteeringHandle | None = None
        self._worn = UNDEFENDED
        self._turn = threading.Lock()

    def answer(
        self,
        defense: Defense,
        conversations: Sequence[Conversation],
        max_new_tokens: int = 256,
        *,
        batch_size: int = DEFAULT_BATCH,
        **generation: Any,
    ) -> list[Reply | Exception]:
        """One reply for each conversation, or the error that it alone met.

        Raises:
            SteeringError: the model would not be steered exactly; nothing was answered.
            SarsteerError: a guard cannot go on.

        """
        options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, **generation}
        with self._turn:
            if defense.guard is not None:
                return self._guarded(defense, conversations, options)
            self._wear(defense)
            return self._each([defense.prompt.apply(conversation) for conversation in conversations], options)

    def close(self) -> None:
        """Take the steering off."""
        with self._turn:
            if self._handle is not None:
                self._handle.remove()
            self._handle, self._worn = None, UNDEFENDED

    def _wear(self, defense: Defense) -> None:
        """Steer as ``defense`` says. What is not steered has zeros added, which change no bit of an activation."""
        from sarsteer.steering.handle import attach
        from sarsteer.steering.strength import ResolvedStrength

        if self._worn.key == defense.key and (self._handle is None or self._handle.attached):
            return
        vectors, alpha, gate = defense.vectors, defense.alpha, defense.gate
        strength = None if vectors is None else ResolvedStrength(vectors, alpha, gate)
        if self._handle is None or not self._handle.attached:
            if strength is not None:
                model: Any = self.model
                self._handle = attach(model.module, model.decoder_layers, strength, model.probe)
        elif strength is None:
            self._handle.suspend()
        else:
            self._handle.apply(strength)
        self._worn = defense

    def _guarded(
        self, defense: Defense, conversations: Sequence[Conversation], options: Mapping[str, Any]
    ) -> list[Reply | Exception]:
        from sarsteer.defenses.guard import clips_with, text_of

        assert defense.guard is not None
        self._wear(UNDEFENDED)
        replies: dict[int, Reply | Exception] = {}
        heard: dict[int, str] = {}
        for i, said in enumerate(self._each([clips_with(c, defense.guard.transcribe) for c in conversations], options)):
            if isinstance(said, Reply):
                heard[i] = said.text
            else:
                replies[i] = said
        whole = [f"{heard[i]}\n{text_of(conversations[i])}".strip() for i in heard]
        stops = dict(zip(heard, defense.guard.stops(whole) if whole else (), strict=True))
        details = {i: {"transcript": heard[i], "guard": says, "stopped": stop} for i, (stop, says) in stops.items()}
        let = [i for i in heard if not stops[i][0]]
        answers = dict(zip(let, self._each([conversations[i] for i in let], options), strict=True))
        for i in heard:
            answer = answers.get(i, Reply(GUARD_REFUSAL))
            replies[i] = Reply(answer.text, details[i]) if isinstance(answer, Reply) else answer
        return [replies[i] for i in range(len(conversations))]

    def _each(self, conversations: Sequence[Conversation], options: Mapping[str, Any]) -> list[Reply | Exception]:
        """Answers in one go; where that fails, halves are tried, until only what is bad by itself has failed."""
        if not conversations:
            return []
        together: Any = getattr(self.model, "generate_each", self.model.generate)
        try:
            texts = together(conversations, **options)
            decisions = self._handle.decisions if self._handle is not None else []
            told = [{"gate": asdict(decision)} for decision in decisions] or [{}] * len(texts)
            return [
                Reply(text, details) if isinstance(text, str) else text
                for text, details in zip(texts, told, strict=True)
            ]
        except SteeringError:
            raise
        except (SarsteerError, RuntimeError) as error:  # torch tells of a full GPU by a RuntimeError
            if len(conversations) == 1:
                return [_alone(error)]
        middle = len(conversations) // 2
        return self._each(conversations[:middle], options) + self._each(conversations[middle:], options)


def _alone(error: Exception) -> Exception:
    """An error about one request, without its place in a batch that nobody sees."""
    if not isinstance(error, SarsteerError):
        return error
    return type(error)(re.sub(r"\bconversation \d+: ", "", str(error)))
