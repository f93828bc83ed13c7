"""API keys: stored as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from sarsteer.errors import SarsteerError

KEY_VARIABLE = "SARSTEER_API_KEY"
SHORTEST = 16
"""Characters of a key; a shorter one can be guessed."""


def digest_of(key: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()


def check_key(key: str, place: str) -> bytes:
    """The digest of an operator's key.

    Raises:
        SarsteerError: the key is too short, or has characters that a header cannot carry.

    """
    if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
        raise SarsteerError(
            f"a key must have at least {SHORTEST} printable ASCII characters without spaces; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
            place=place,
        )
    return digest_of(key)


def read_key_file(path: Path) -> list[str]:
    """The keys of a file: one per line; empty lines and lines that begin with ``#`` are skipped.

    Raises:
        SarsteerError: the file cannot be read, or has no key.

    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SarsteerError(f"the key file cannot be read ({reason})", place=str(path)) from None
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not keys:
        raise SarsteerError("the key file has no key; write one key per line", place=str(path))
    return keys


def key_from_environment(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The key in an environment variable; None if it is not set or empty."""
    return (os.environ if environment is None else environment).get(name, "").strip() or None


def bearer(header: str | None) -> str | None:
    """The key in an ``Authorization`` header."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def matches(key: str | None, digest: bytes) -> bool:
    """Whether ``key`` has this digest, in a time that does not depend on where they differ."""
    return hmac.compare_digest(digest_of(key or ""), digest) and key is not None
