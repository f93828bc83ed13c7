"""Read a GGUF file: metadata, and tensors of the kinds that SmolLM2's has (F32, Q4_1, Q8_0)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_F32, _Q4_1, _Q8_0 = 0, 3, 8
_BLOCK = 32  # numbers a quantized block
_BLOCK_BYTES = {_Q4_1: 20, _Q8_0: 34}


class GgufFile:
    """A GGUF file of version 3, mapped into memory.

    Attributes:
        metadata: by key; lists as Python lists.
        tensors: (kind, shape as PyTorch has it, offset) by name.

    Raises:
        ValueError: the file is not GGUF, is damaged, or holds tensors of another kind.

    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 4
        if self._data[:4] != b"GGUF" or self._scalar("I") != 3:
            raise ValueError("not a GGUF file of version 3")
        try:
            count, keys = self._scalar("Q"), self._scalar("Q")
            self.metadata: dict[str, Any] = {}
            for _ in range(keys):
                key = self._text()
                self.metadata[key] = self._value(self._scalar("I"))
            self.tensors: dict[str, tuple[int, tuple[int, ...], int]] = {}
            for _ in range(count):
                name = self._text()
                rank = self._scalar("I")
                shape = tuple(reversed([self._scalar("Q") for _ in range(rank)]))
                self.tensors[name] = (self._scalar("I"), shape, self._scalar("Q"))
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError("the file is cut short or damaged") from error
        align = int(self.metadata.get("general.alignment", 32))
        self._start = -(-self._at // align) * align

    def _scalar(self, code: str) -> Any:
        size = struct.calcsize("<" + code)
        (value,) = struct.unpack("<" + code, self._data[self._at : self._at + size])
        self._at += size
        return value

    def _text(self) -> str:
        size = self._scalar("Q")
        text = self._data[self._at : self._at + size].decode()
        self._at += size
        return text

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            inner, count = self._scalar("I"), self._scalar("Q")
            return [self._value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"metadata of an unknown kind ({kind})")
        return self._scalar(_SCALARS[kind])

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor in float32."""
        kind, shape, offset = self.tensors[name]
        count = int(np.prod(shape))
        begin = self._start + offset
        if kind == _F32:
            return np.frombuffer(self._data, "<f4", count, begin).reshape(shape).astype(np.float32)
        if kind not in _BLOCK_BYTES:
            raise ValueError(f"tensor {name} is of a kind ({kind}) that is not read here")
        blocks = count // _BLOCK
        raw = np.frombuffer(self._data, np.uint8, blocks * _BLOCK_BYTES[kind], begin).reshape(blocks, -1)
        scale = raw[:, :2].copy().view("<f2").astype(np.float32)
        if kind == _Q8_0:
            numbers = raw[:, 2:].view(np.int8).astype(np.float32) * scale
        else:
            least = raw[:, 2:4].copy().view("<f2").astype(np.float32)
            nibbles = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], 1)
            numbers = nibbles.astype(np.float32) * scale + least
        whole: npt.NDArray[np.float32] = numbers.reshape(shape)
        return whole

    def names(self) -> Iterator[str]:
        """Of all tensors, in the file's order."""
        return iter(self.tensors)
