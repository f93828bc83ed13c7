"""Cache the embeddings of encoded clips: a conversation's next turn contains its earlier clips again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch

LIMIT_BYTES = 256 * 1024 * 1024


class ClipCache:
    """Embeddings by the clip's digest; beyond ``limit`` bytes the least recently used are dropped."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def missing(self, digests: Iterable[str]) -> list[str]:
        """The distinct digests that must be encoded."""
        return [digest for digest in dict.fromkeys(digests) if digest not in self._embeddings]

    def take(
        self, digests: Sequence[str], fresh: dict[str, torch.Tensor], *, remember: bool = True
    ) -> list[torch.Tensor]:
        """The embeddings of ``digests`` in order, from ``fresh`` or the cache; ``remember`` adds ``fresh`` to it."""
        embeddings = [fresh[digest] if digest in fresh else self._embeddings[digest] for digest in digests]
        for digest in digests:
            if digest in self._embeddings:
                self._embeddings.move_to_end(digest)
        for digest, embedding in fresh.items() if remember else ():
            copy = embedding.clone()  # not a view that keeps its whole batch alive
            self._embeddings[digest] = copy
            self._bytes += copy.nbytes
        while self._bytes > self.limit:
            _, oldest = self._embeddings.popitem(last=False)
            self._bytes -= oldest.nbytes
        return embeddings

    def clear(self) -> None:
        """Drop all embeddings; needed after the model's weights change."""
        self._embeddings.clear()
        self._bytes = 0
