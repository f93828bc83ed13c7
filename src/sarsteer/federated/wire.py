"""Messages between server and sites: JSON and arrays in one safetensors buffer. Nothing in it can run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sarsteer.federated.errors import FederationError

VERSION = 1
"""Of the protocol: sites and server must have the same."""


@dataclass(frozen=True, eq=False)
class Message:
    """One step of the protocol.

    Attributes:
        step: its name.
        values: JSON values; bytes are written in hexadecimal.
        arrays: by name.

    """

    step: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False)

    def to_bytes(self) -> bytes:
        """The message as bytes."""
        from safetensors.numpy import save

        header = json.dumps({"step": self.step, "version": VERSION, "values": dict(self.values)})
        return bytes(save({name: np.ascontiguousarray(a) for name, a in self.arrays.items()}, {"message": header}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """The inverse of ``to_bytes``.

        Raises:
            FederationError: the bytes are not a message of this version.

        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["message"])
            step, version, values = header["step"], header["version"], header["values"]
            arrays = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError):
            raise FederationError("received bytes that are not a message; check the address") from None
        if version != VERSION:
            raise FederationError(
                f"the other side speaks version {version} of the protocol, this one {VERSION}; update"
            )
        return cls(str(step), values, arrays)


def text_of(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
