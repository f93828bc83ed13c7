"""The text of an answer while its tokens arrive: whole characters, trimmed, and nothing after a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
"""What a decoder writes for the beginning of a character whose other bytes have not come yet."""


class AnswerText:
    """Collects tokens and releases text. The released pieces joined are ``whole``.

    Args:
        decode: the text of token ids, without special tokens.
        stops: the answer ends before the first of these.
        gradual: decode while tokens arrive; otherwise, without stops, all at once in the end, which is cheaper.

    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = (), *, gradual: bool = True) -> None:
        self._decode, self._stops, self._gradual = decode, tuple(stops), gradual or bool(stops)
        self._tokens: list[int] = []
        self._settled = 0  # tokens before this one are part of `_text` and no longer decoded again
        self._pending = 0  # tokens from `_settled` to here are part of `_text`, and kept as context of the next ones
        self._context = ""  # their text
        self._text = ""
        self._released = 0
        self._end: int | None = None  # where a stop cut the text

    @property
    def stopped(self) -> bool:
        """Whether a stop occurred."""
        return self._end is not None

    def add(self, token: int) -> None:
        """One more token."""
        self._tokens.append(token)
        if not self._gradual:
            return
        text = self._decode(self._tokens[self._settled :])
        if len(text) <= len(self._context) or text.endswith(_INCOMPLETE):
            return
        self._append(text[len(self._context) :])
        self._settled, self._pending = self._pending, len(self._tokens)
        self._context = self._decode(self._tokens[self._settled : self._pending])

    def release(self) -> str:
        """Text that is certain by now: what could still be trailing white space, or part of a stop, is kept back."""
        text = self._text[: self._end]
        if self._end is None:
            text = text[: len(text) - self._uncertain(text)]
        return self._take(text.strip())

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self._end is None and self._pending < len(self._tokens):
            self._append(self._decode(self._tokens[self._settled :])[len(self._context) :])
        return self._take(self.whole)

    @property
    def whole(self) -> str:
        """The answer so far."""
        return self._text[: self._end].strip()

    def _append(self, piece: str) -> None:
        start = max(0, len(self._text) - max(map(len, self._stops), default=0))
        self._text += piece
        found = [at for stop in self._stops if (at := self._text.find(stop, start)) >= 0]
        if found and self._end is None:
            self._end = min(found)

    def _uncertain(self, text: str) -> int:
        """The length of the longest end of ``text`` that begins a stop."""
        return max(
            (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )

    def _take(self, text: str) -> str:
        piece = text[self._released :]
        self._released = max(self._released, len(text))
        return piece
