"""The options that say where a judge's or a guard's text model runs, and the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from sarsteer.errors import AnswerError, JudgeError, SarsteerError
from sarsteer.judges.backend import Backend, Reply
from sarsteer.judges.base import Verdict
from sarsteer.models.api.address import normalized, server_address, without_password
from sarsteer.models.interface import API_PREFIX
from sarsteer.registry import option

_API_OPTIONS = ("base_url", "timeout", "max_retries", "token_limit_key", "api_key")
_LOCAL_OPTIONS = ("device", "dtype", "revision", "progress")


@dataclass(frozen=True)
class TextModelOptions:
    """A text model: ``openai/NAME`` behind an OpenAI-compatible endpoint, else a folder or a name on the Hub.

    A judge or guard extends this class and asks ``backend``. An option that is None has the backend's default.

    Attributes:
        progress: called with the number of prompts answered so far and their total; local models only.

    Raises:
        JudgeError: an option does not apply to the model, or its value is invalid.

    """

    name: ClassVar[str] = "text model"

    model: str = option(argument=True, help="openai/NAME for an endpoint, else a folder or a name on the Hub")
    base_url: str | None = option(None, help="the endpoint's URL; OPENAI_BASE_URL, or OpenAI, by default")
    timeout: float | None = option(None, help="seconds per try at an endpoint (60)")
    max_retries: int | None = option(None, help="tries after the first at an endpoint (5)")
    token_limit_key: str | None = option(None, help="max_completion_tokens, or max_tokens for older endpoints")
    api_key: str | None = option(None, secret="OPENAI_API_KEY", help="of the endpoint")
    device: str | None = option(None, help="of a local model; a GPU if there is one")
    dtype: str | None = option(None, help="of a local model; the checkpoint's own by default")
    revision: str | None = option(None, help="branch, tag or commit on the Hub")
    batch_size: int | None = option(None, help="requests in flight (16), or prompts per forward pass (8)")
    progress: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.model:
            raise JudgeError(f"needs a model; write {self.name}:FOLDER_OR_HUB_NAME or {self.name}:openai/NAME")
        wrong = [name for name in self._other_options if getattr(self, name) is not None]
        if wrong:
            place = "runs behind an endpoint" if self.runs_remotely else "runs locally"
            raise JudgeError(f"{self.model} {place} and takes no {', '.join(wrong)}; leave it out", place=self.name)
        if self.base_url is not None and self.base_url != without_password(self.base_url):
            raise JudgeError(
                "base_url contains a password, which would be stored with the results; set OPENAI_BASE_URL instead",
                place=self.name,
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise JudgeError(f"batch_size must be at least 1, not {self.batch_size}", place=self.name)

    @property
    def runs_remotely(self) -> bool:
        """Whether the model is behind an endpoint."""
        return self.model.startswith(API_PREFIX)

    @property
    def identity(self) -> str:
        """The model in a signature: its name, with the server's address or the revision.

        Cached verdicts of one server or revision are not reused for another.
        """
        if self.runs_remotely:
            return f"{self.model}@{normalized(server_address(self.base_url))}"
        return self.model if self.revision is None else f"{self.model}@{self.revision}"

    @property
    def at_once(self) -> int:
        """How many conversations to ask at once; a local model sorts eight batches by length."""
        return self.batch_size or 16 if self.runs_remotely else 8 * (self.batch_size or 8)

    @cached_property
    def backend(self) -> Backend:
        """The model; a local one is loaded when this is first read.

        Raises:
            JudgeError: the model cannot be loaded.
            ModelError: the endpoint's options are invalid.

        """
        own = _API_OPTIONS if self.runs_remotely else _LOCAL_OPTIONS
        options = {name: getattr(self, name) for name in (*own, "batch_size") if getattr(self, name) is not None}
        if self.runs_remotely:
            from sarsteer.judges.api_backend import ApiBackend

            return ApiBackend(self.model, **options)
        from sarsteer.judges.local_backend import LocalBackend

        return LocalBackend(self.model, **options)

    def load(self) -> None:
        """Load the model now."""
        _ = self.backend

    @property
    def _other_options(self) -> tuple[str, ...]:
        return _LOCAL_OPTIONS if self.runs_remotely else _API_OPTIONS


def read_reply(reply: Reply, read: Callable[[str], Verdict]) -> Verdict | SarsteerError:
    """The verdict of a reply: ``read(reply)``, or an unreadable verdict if one request failed.

    An error that would also meet the next request is returned unchanged, for ``all_or_stop``.
    """
    if isinstance(reply, AnswerError):
        return Verdict(None, "", reply.message)
    return reply if isinstance(reply, SarsteerError) else read(reply)
