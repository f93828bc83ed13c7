"""Models behind an OpenAI-compatible endpoint: they answer, without access to activations."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sarsteer.errors import AnswerError, AudioError, MessageError, MissingExtraError, ModelError, SarsteerError
from sarsteer.messages import Conversation, Message, check_conversations
from sarsteer.models.api.address import authorization, is_web_address, server_address, without_password
from sarsteer.models.api.allowance import Allowance, Spent
from sarsteer.models.api.errors import explain, is_about_one_request
from sarsteer.models.api.format import AUDIO_FORMATS, pieces_of, request_messages, request_settings, texts_of
from sarsteer.models.interface import API_PREFIX, DEFAULT_BATCH, LanguageModel

if TYPE_CHECKING:
    import torch


class ApiModel(LanguageModel):
    """A model behind a chat-completions endpoint: OpenAI's, or that of any compatible server, such as vLLM's.

    Retries, their delays and time limits are those of the official ``openai`` client. No connection stays open between
    calls, and ``generate`` works inside a running event loop.

    Args:
        name: such as ``"openai/gpt-audio"``. One leading ``openai/`` is removed before it is sent.
        base_url: such as ``"http://localhost:8000/v1"``; by default OPENAI_BASE_URL, else OpenAI's. A
            password in it (``http://user:password@host/v1``) is sent as HTTP Basic authentication in place of the key,
            and is shown nowhere.
        api_key: OPENAI_API_KEY by default; any word for a server that needs none.
        timeout: seconds to wait for the server in each try.
        max_retries: tries after the first, if the server is busy, fails, or does not answer in time.
        audio_format: ``"wav"`` (16 bits), or ``"mp3"`` for smaller, lossy uploads.
        budget: requests that may be sent in this model's lifetime, retries included; None for no limit.
        per_minute: requests that may be sent per minute, retries included; None for no limit.
        token_limit_key: the server's name for ``max_new_tokens``; older servers use ``"max_tokens"``.

    Raises:
        MissingExtraError: the ``openai`` package is not installed.
        ModelError: there is no key, or an argument is invalid.

    """

    unsteerable_because = "answers over an API, without access to its activations"

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 5,
        audio_format: str = "wav",
        token_limit_key: str = "max_completion_tokens",
        budget: int | None = None,
        per_minute: float | None = None,
    ) -> None:
        try:
            import openai
        except ImportError:
            raise MissingExtraError("API models", "api") from None
        self.name = name
        self.served_name = name.removeprefix(API_PREFIX)
        address = server_address(base_url)
        self.base_url = without_password(address)
        key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not self.served_name:
            raise ModelError(f"{name!r} has no model name; write it like openai/gpt-audio")
        if not is_web_address(address):
            raise ModelError(f"{name}: base_url {self.base_url!r} is not a web address; write http://host:port/v1")
        if not key:
            raise ModelError(f"{name}: there is no API key; set OPENAI_API_KEY (to any word if the server needs none)")
        if not key.isascii() or not key.isprintable() or " " in key:  # the transport's error would quote it
            raise ModelError(f"{name}: the API key contains invalid characters; copy only the key")
        if audio_format not in AUDIO_FORMATS:
            raise ModelError(f"{name}: unknown audio_format {audio_format!r}; use {' or '.join(AUDIO_FORMATS)}")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ModelError(f"{name}: timeout must be above 0 seconds, not {timeout:g}")
        self.allowance = Allowance(budget, per_minute)
        self.audio_format = audio_format
        self.token_limit_key = token_limit_key
        self._client_options: dict[str, Any] = {
            "base_url": self.base_url,
            "api_key": key,
            "timeout": timeout,
            "max_retries": max_retries,
        }
        if header := authorization(address):
            self._client_options["default_headers"] = {"Authorization": header}
        self._new_client: Any = openai.OpenAI
        self._new_async_client: Any = openai.AsyncOpenAI

    def __repr__(self) -> str:
        return f"ApiModel({self.name!r}, {self.base_url})"

    def generate(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int = 256,
        *,
        batch_size: int = DEFAULT_BATCH,
        **generation: Any,
    ) -> list[str]:
        """Answer each conversation, with temperature 0 unless ``do_sample=True`` or a ``temperature`` is given.

        All conversations are checked before the first is sent, and read again when they are sent, so that only
        ``batch_size`` of them are in memory with encoded clips. The first request that fails after its retries ends the
        call and cancels those in flight.

        Args:
            conversations: lists of messages.
            max_new_tokens: the longest answer, in tokens.
            batch_size: requests in flight.
            generation: ``do_sample``, ``temperature``, ``top_p``, ``seed``, ``stop``, ``num_return_sequences``.

        Returns:
            The answers, in the order of the conversations (``num_return_sequences`` in a row for each). A refusal in
            the response's ``refusal`` field is the answer.

        Raises:
            ModelError: an option is unknown, or the server cannot be reached, refuses, or sends no readable answer.
            MessageError, AudioError: a conversation is malformed or a clip is bad; nothing was sent.
                Errors about one conversation carry its ``index``.

        """
        settings = request_settings(self.name, self.token_limit_key, max_new_tokens, generation)
        answers = self._ask(conversations, settings, batch_size, keep_going=False)
        return [text for texts in answers if not isinstance(texts, SarsteerError) for text in texts]

    def generate_each(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int = 256,
        *,
        batch_size: int = DEFAULT_BATCH,
        **generation: Any,
    ) -> list[str | SarsteerError]:
        """Like ``generate``, but a request that fails returns its error instead of an answer, and the others continue.

        An ``AnswerError`` is about one request only; other errors would probably stop the next request too.
        """
        settings = request_settings(self.name, self.token_limit_key, max_new_tokens, generation)
        if settings.get("n", 1) != 1:
            raise ModelError(f"{self.name}: generate_each returns one answer each; leave out num_return_sequences")
        answers = self._ask(conversations, settings, batch_size, keep_going=True)
        return [texts if isinstance(texts, SarsteerError) else texts[0] for texts in answers]

    def _ask(
        self, conversations: Sequence[Conversation], settings: dict[str, Any], batch_size: int, keep_going: bool
    ) -> list[list[str] | SarsteerError]:
        from anyio.from_thread import start_blocking_portal  # the openai client is built on anyio and brings it

        if batch_size < 1:
            raise ModelError(f"batch_size must be at least 1, not {batch_size}")
        check_conversations(conversations)
        for index, conversation in enumerate(conversations):
            self._messages(conversation, index)
        if not conversations:
            return []
        # an event loop in another thread: the caller may have one running, and Ctrl-C cancels the requests in flight
        with start_blocking_portal() as portal:
            return portal.call(self._answer_all, conversations, settings, batch_size, keep_going)

    async def _answer_all(
        self, conversations: Sequence[Conversation], settings: dict[str, Any], in_flight: int, keep_going: bool
    ) -> list[list[str] | SarsteerError]:
        import anyio

        answers: dict[int, list[str] | SarsteerError] = {}
        failures: list[SarsteerError] = []
        waiting = iter(range(len(conversations)))

        async def work() -> None:
            for index in waiting:
                try:
                    answers[index] = await self._answer(client, conversations[index], settings, index)
                except SarsteerError as error:
                    answers[index] = error
                    if not keep_going:
                        failures.append(error)
                        group.cancel_scope.cancel()

        async with (
            self._new_async_client(**self._client_options, **self.allowance.client()) as client,
            anyio.create_task_group() as group,
        ):
            for _ in range(min(in_flight, len(conversations))):
                group.start_soon(work)
        if failures:
            raise failures[0]
        return [answers[index] for index in range(len(conversations))]

    async def _answer(self, client: Any, conversation: Conversation, settings: dict[str, Any], index: int) -> list[str]:
        from anyio import to_thread

        place = f"conversation {index}"
        messages = await to_thread.run_sync(self._messages, conversation, index)
        try:
            self.allowance.check()
            completion = await client.chat.completions.create(
                model=self.served_name, messages=messages, **self._modalities(), **settings
            )
        except Spent:
            text = (
                f"the budget of {self.allowance.budget} requests is spent; run the same command again for as many more"
            )
            raise ModelError(f"{self.name}: {text}", place=place, index=index) from None
        except Exception as error:  # the client also lets errors of its parser and transport through
            raise self._explained(error).at(place, index) from error
        try:
            return texts_of(completion, settings.get("n", 1), self.name)
        except ModelError as error:
            raise error.at(place, index) from None

    def stream(self, conversation: Conversation, max_new_tokens: int = 256, **generation: Any) -> Iterator[str]:
        """Answer one conversation piece by piece, with the options of ``generate`` except ``num_return_sequences``.

        Raises:
            ModelError, MessageError, AudioError: like ``generate``; the server's errors while the pieces are read.

        """
        if generation.pop("num_return_sequences", None) not in (None, 1):
            raise ModelError(f"{self.name}: only one answer can be streamed; leave out num_return_sequences")
        settings = request_settings(self.name, self.token_limit_key, max_new_tokens, generation)
        return self._pieces(request_messages(conversation, self.audio_format), settings)

    def _pieces(self, messages: list[Message], settings: dict[str, Any]) -> Iterator[str]:
        with self.new_client() as client:
            try:
                chunks = client.chat.completions.create(
                    model=self.served_name, messages=messages, stream=True, **self._modalities(), **settings
                )
                with chunks:
                    yield from pieces_of(chunks, self.name)
            except SarsteerError:
                raise
            except Exception as error:  # as in _answer
                raise self._explained(error) from error

    def last_token_activations(
        self, conversations: Sequence[Conversation], *, batch_size: int = DEFAULT_BATCH
    ) -> torch.Tensor:
        """Always raise ``ModelError``: an API gives no access to activations."""
        self.check_steerable()
        raise AssertionError("unreachable")

    def _messages(self, conversation: Conversation, index: int) -> list[Message]:
        try:
            return request_messages(conversation, self.audio_format)
        except (MessageError, AudioError) as error:
            raise error.at(f"conversation {index}", index) from None

    def _modalities(self) -> dict[str, Any]:
        """Ask OpenAI's audio models, which can also speak, for text only; other servers may reject the field."""
        speaks = self.served_name.startswith("gpt-") and "audio" in self.served_name
        return {"modalities": ["text"]} if speaks else {}

    def new_client(self) -> Any:
        """An ``openai`` client with this model's address, key, time limit and retries, for other endpoints."""
        return self._new_client(**self._client_options)

    @property
    def tries(self) -> int:
        """How often a request is sent before it fails."""
        return int(self._client_options["max_retries"]) + 1

    def _explained(self, error: Exception) -> ModelError:
        kind = AnswerError if is_about_one_request(error) else ModelError
        return kind(f"{self.name}: {explain(error, self.served_name, self.base_url, self.tries)}")
