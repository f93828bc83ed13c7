"""Remember the embeddings of clips that were encoded: a conversation's next turn hears its earlier clips again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch

LIMIT_BYTES = 256 * 1024 * 1024


class ClipCache:
    """Embeddings by the clip's digest, the least recently used dropped beyond ``limit`` bytes."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def missing(self, digests: Iterable[str]) -> list[str]:
        """The distinct digests that must be encoded."""
        return [digest for digest in dict.fromkeys(digests) if digest not in self._kept]

    def take(
        self, digests: Sequence[str], fresh: dict[str, torch.Tensor], *, remember: bool = True
    ) -> list[torch.Tensor]:
        """The embeddings of ``digests`` in order, from ``fresh`` or memory; then ``fresh`` is remembered."""
        found = [fresh[digest] if digest in fresh else self._kept[digest] for digest in digests]
        for digest in digests:
            if digest in self._kept:
                self._kept.move_to_end(digest)
        for digest, embedding in fresh.items() if remember else ():
            own = embedding.clone()  # not a view that keeps its whole batch alive
            self._kept[digest] = own
            self._bytes += own.nbytes
        while self._bytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
        return found

    def clear(self) -> None:
        """Forget everything, as when the model's weights changed."""
        self._kept.clear()
        self._bytes = 0
