"""A site's identity: an Ed25519 key. The plan lists the public keys, so that nobody else can pose as a site."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sarsteer.errors import MissingExtraError
from sarsteer.federated.errors import FederationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CONTEXT = b"sarsteer federated calibration 1\0"


@dataclass(frozen=True)
class Identity:
    """A private key that signs a site's messages."""

    key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def new(cls) -> Identity:
        """A fresh key."""
        _need()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key file.

        Raises:
            FederationError: there is no such file, or it is not an Ed25519 key.

        """
        _need()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise FederationError(f"is not a site's key; create one with sarsteer federate key {path}", place=str(path))
        return cls(key)

    def save(self, path: Path) -> None:
        """Write the key, readable only by its owner.

        Raises:
            FederationError: the file exists, or cannot be written.

        """
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        data = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        except FileExistsError:
            raise FederationError("exists already; choose another file", place=str(path)) from None
        except OSError as error:
            raise FederationError(f"cannot be written ({error.strerror})", place=str(path)) from None

    @property
    def public(self) -> str:
        """The public key, 64 hexadecimal digits."""
        return self.key.public_key().public_bytes_raw().hex()

    def sign(self, *parts: bytes) -> str:
        """A signature of the parts, in hexadecimal."""
        return self.key.sign(_joined(parts)).hex()


def verify(public: str, signature: str, *parts: bytes) -> bool:
    """Whether ``signature`` is that of the parts by this public key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), _joined(parts))
    except (InvalidSignature, ValueError):
        return False
    return True


def check_public(name: str, public: str) -> None:
    """Raise ``FederationError`` unless ``public`` can be a public key."""
    if len(public) != 64 or any(digit not in "0123456789abcdef" for digit in public):
        raise FederationError(f"the key of site {name!r} must have 64 hexadecimal digits, not {public!r}")


def _joined(parts: tuple[bytes, ...]) -> bytes:
    return _CONTEXT + b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _need() -> None:
    import importlib.util

    if importlib.util.find_spec("cryptography") is None:
        raise MissingExtraError("federated calibration", "federated")
