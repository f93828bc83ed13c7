"""One model under many defenses: prompts are rewritten, and the steering is changed in place between batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sarsteer.defenses.built import BuiltDefense
from sarsteer.defenses.rewrite import NO_REWRITE
from sarsteer.errors import AudioError, EvaluationError, MessageError, SarsteerError, SteeringError
from sarsteer.messages import Conversation, Message
from sarsteer.models.interface import DEFAULT_BATCH, LanguageModel
from sarsteer.prompts import GUARD_REFUSAL
from sarsteer.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch

    from sarsteer.models.prompt import Prompt
    from sarsteer.models.shared_prefix import SharedPrefix
    from sarsteer.steering.handle import SteeringHandle
    from sarsteer.steering.strength import ResolvedStrength


R = TypeVar("R", bound="Reply | Exception")


@dataclass(frozen=True)
class Reply:
    """An answer, and what a log should record about it: the gate's decision, a guard's transcript."""

    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Answerer:
    """Answers under any defense with one loaded model. Steering is attached and proven once, then changed in place.

    Safe to call from several threads: calls wait for each other.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._handle: SteeringHandle | None = None
        self._lock = threading.Lock()

    def answer(
        self,
        defense: BuiltDefense,
        conversations: Sequence[Conversation],
        max_new_tokens: int = 256,
        *,
        batch_size: int = DEFAULT_BATCH,
        **generation: Any,
    ) -> list[Reply | Exception]:
        """One reply for each conversation, or the error that concerns only this conversation.

        A defense that neither rewrites nor guards also takes prompts from the model's ``prepare``.

        Raises:
            SteeringError: the model would not be steered exactly; nothing was answered.
            SarsteerError: a guard cannot continue.

        """
        options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, **generation}
        with self._lock:
            if defense.pool:
                return self._pooled(defense, conversations, options)
            return self._with(defense, conversations, options)

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """A context in which the model runs as without a defense; answers of other threads wait."""
        with self._lock:
            self._steer(None)
            yield

    def share_prefix(self, prompts: Sequence[Prompt], drop: int) -> SharedPrefix:
        """Compute what ``prompts`` share under every defense, unsteered; see ``SharedPrefix``."""
        from sarsteer.models.shared_prefix import SharedPrefix

        model: Any = self.model
        with self._lock:
            self._steer(None)
            return SharedPrefix(model, prompts, drop)

    def extend_prefix(self, prefix: SharedPrefix, tokens: torch.Tensor) -> None:
        """Add tokens ``[N]`` to every row of ``prefix``, unsteered."""
        with self._lock:
            self._steer(None)
            prefix.extend(tokens)

    def answer_after(
        self, defense: BuiltDefense, prefix: SharedPrefix, tokens: torch.Tensor, max_new_tokens: int
    ) -> list[Reply]:
        """One reply for each row of ``prefix``, continued by ``tokens`` ``[N]`` and steered as ``defense`` says.

        The words that a defense adds to a prompt are the caller's: they are in ``tokens``.

        Raises:
            EvaluationError: the defense reads whole conversations (a guard, noised copies), or is a pool.
            SteeringError: the model would not be steered exactly; nothing was answered.

        """
        if defense.guard is not None:
            raise EvaluationError("a guard reads whole conversations; call answer()")
        if defense.copies is not None:
            raise EvaluationError("noised copies are made of whole conversations; call answer()")
        if defense.pool:
            raise EvaluationError("the rows of a prefix are answered under one defense; pass a member of the pool")
        with self._lock:
            self._steer(defense.strength)
            model: Any = self.model
            added = defense.per_request
            with nullcontext() if added is None else added.applied(model.decoder_layers) as run:
                texts = prefix.answer(tokens, max_new_tokens)
            if run is not None:
                run.check()
            decisions = self._handle.decisions if self._handle is not None else []
            details = [{"gate": asdict(decision)} for decision in decisions] or [{}] * len(texts)
            replies = [Reply(text, {**about, **defense.details}) for text, about in zip(texts, details, strict=True)]
            gated = defense.strength is not None and defense.strength.gate is not None
            return [_refused(reply, defense.refusal) for reply in replies] if gated else replies

    def close(self) -> None:
        """Remove the steering."""
        with self._lock:
            if self._handle is not None:
                self._handle.remove()
            self._handle = None

    def _pooled(
        self, defense: BuiltDefense, conversations: Sequence[Conversation], options: Mapping[str, Any]
    ) -> list[Reply | Exception]:
        """Answer each request under its member of the pool, one member after the other."""
        members = [defense.member_for(conversation) for conversation in conversations]
        replies: dict[int, Reply | Exception] = {}
        for member in defense.pool:
            own = [i for i, one in enumerate(members) if one is member]
            replies |= zip(own, self._with(member, [conversations[i] for i in own], options), strict=True)
        return [replies[i] for i in range(len(conversations))]

    def _with(
        self, defense: BuiltDefense, conversations: Sequence[Conversation], options: Mapping[str, Any]
    ) -> list[Reply | Exception]:
        if not conversations:
            return []
        answer = self._defended if defense.guard is None else self._guarded
        if defense.copies is not None:
            answer = self._agreeing
        replies = answer(defense, conversations, options)
        return [
            Reply(one.text, {**one.details, **defense.details}) if isinstance(one, Reply) else one for one in replies
        ]

    def _defended(
        self, defense: BuiltDefense, conversations: Sequence[Conversation], options: Mapping[str, Any]
    ) -> list[Reply | Exception]:
        if not conversations:
            return []
        self._steer(defense.strength)
        model: Any = self.model
        added = defense.per_request
        with nullcontext() if added is None else added.applied(model.decoder_layers) as run:
            if defense.prompt is NO_REWRITE:
                replies = self._each(conversations, options)
            else:
                replies = self._rewritten(defense.prompt.apply, conversations, options)
        if run is not None and any(isinstance(reply, Reply) for reply in replies):
            run.check()
        gated = defense.strength is not None and defense.strength.gate is not None
        return [_refused(one, defense.refusal) for one in replies] if gated and defense.refusal is not None else replies

    def _guarded(
        self, defense: BuiltDefense, conversations: Sequence[Conversation], options: Mapping[str, Any]
    ) -> list[Reply | Exception]:
        """Transcribe every request without defense, ask the guard, and answer what it does not stop."""
        from sarsteer.defenses.request_guard import clips_with, text_of

        guard = defense.guard
        assert guard is not None
        self._steer(None)
        replies = self._rewritten(lambda one: clips_with(one, guard.transcribe), conversations, options)
        transcripts = {i: reply.text for i, reply in enumerate(replies) if isinstance(reply, Reply)}
        requests = [f"{text}\n{text_of(conversations[i])}".strip() for i, text in transcripts.items()]
        decisions = dict(zip(transcripts, guard.stops(requests) if requests else (), strict=True))
        allowed = [i for i, (stopped, _) in decisions.items() if not stopped]
        answers = dict(zip(allowed, self._defended(defense, [conversations[i] for i in allowed], options), strict=True))
        for i, (stopped, words) in decisions.items():
            answer = answers.get(i, Reply(defense.refusal or GUARD_REFUSAL))
            if isinstance(answer, Reply):
                about = {"transcript": transcripts[i], "guard": words, "stopped": stopped}
                answer = Reply(answer.text, {**answer.details, **about})
            replies[i] = answer
        return replies

    def _agreeing(
        self, defense: BuiltDefense, conversations: Sequence[Conversation], options: Mapping[str, Any]
    ) -> list[Reply | Exception]:
        """Let the gate judge noised copies first. A request is answered as usual only if it stays closed for all."""
        copies = defense.copies
        assert copies is not None
        made: dict[int, list[list[Message]]] = {}
        replies: dict[int, Reply | Exception] = {}
        for i, conversation in enumerate(conversations):
            try:
                made[i] = copies.of(conversation)
            except (MessageError, AudioError) as error:
                replies[i] = _without_index(error)
        plain = replace(defense, copies=None, refusal=None)
        scores: dict[int, list[float | None]] = {i: [] for i in made}
        opened: set[int] = set()
        for number in range(copies.count):
            first = self._defended(plain, [made[i][number] for i in made], {**options, "max_new_tokens": 1})
            for i, reply in zip(made, first, strict=True):
                gate = reply.details.get("gate") if isinstance(reply, Reply) else None
                scores[i].append(None if gate is None else gate["score"])
                if gate is None or gate["opening"] >= 0.5:  # a copy that cannot be judged counts as open
                    opened.add(i)
        for chosen, one in (
            ([i for i in made if i not in opened], replace(defense, copies=None)),
            ([i for i in made if i in opened], replace(plain, strength=copies.opened)),
        ):
            for i, reply in zip(chosen, self._defended(one, [conversations[i] for i in chosen], options), strict=True):
                replies[i] = reply
                if isinstance(reply, Reply):
                    about = {**reply.details, "copies": scores[i], "copies_open": i in opened}
                    replies[i] = Reply(reply.text, about)
                    if i in opened and defense.refusal is not None:
                        replies[i] = Reply(defense.refusal, {**about, "own_words": reply.text})
        return [replies[i] for i in range(len(conversations))]

    def _steer(self, strength: ResolvedStrength | None) -> None:
        """Steer by ``strength`` from now on. None adds zeros, which change no bit of an activation."""
        handle = self._handle
        if handle is None or not handle.attached:
            self._handle = None if strength is None else self._attach(strength)
        elif strength is None:
            handle.suspend()
        elif handle.strength is not strength:
            handle.apply(strength)

    def _attach(self, strength: ResolvedStrength) -> SteeringHandle:
        from sarsteer.steering.handle import attach

        model: Any = self.model
        return attach(model.module, model.decoder_layers, strength, model.probe)

    def _rewritten(
        self,
        rewrite: Callable[[Conversation], list[Message]],
        conversations: Sequence[Conversation],
        options: Mapping[str, Any],
    ) -> list[Reply | Exception]:
        prompts: dict[int, list[Message]] = {}
        replies: dict[int, Reply | Exception] = {}
        for i, conversation in enumerate(conversations):
            try:
                prompts[i] = rewrite(conversation)
            except MessageError as error:
                replies[i] = error
        replies |= dict(zip(prompts, self._each(list(prompts.values()), options), strict=True))
        return [replies[i] for i in range(len(conversations))]

    def _each(self, conversations: Sequence[Conversation], options: Mapping[str, Any]) -> list[Reply | Exception]:
        """Answer all at once. If that fails, answer each half, until only the conversations that fail are left."""
        if not conversations:
            return []
        generate: Any = getattr(self.model, "generate_each", self.model.generate)
        try:
            answers = generate(conversations, **options)
            decisions = self._handle.decisions if self._handle is not None else []
            details = [{"gate": asdict(decision)} for decision in decisions] or [{}] * len(answers)
            return [
                Reply(answer, about) if isinstance(answer, str) else answer
                for answer, about in zip(answers, details, strict=True)
            ]
        except SteeringError:
            raise
        except Exception as error:
            if not isinstance(error, SarsteerError) and not is_out_of_memory(error):
                raise
            if len(conversations) == 1:
                return [_without_index(error)]
        middle = len(conversations) // 2
        return self._each(conversations[:middle], options) + self._each(conversations[middle:], options)


def _refused(reply: R, refusal: str | None) -> R | Reply:
    """The fixed refusal, if the gate is open by half or more, or did not decide; the log keeps the model's words."""
    if refusal is None or not isinstance(reply, Reply) or reply.details.get("gate", {}).get("opening", 1.0) < 0.5:
        return reply
    return Reply(refusal, {**reply.details, "own_words": reply.text})


def _without_index(error: Exception) -> Exception:
    """An error about one request without its position in a batch, which the caller does not know."""
    return error.at(None) if isinstance(error, SarsteerError) and error.index is not None else error
