"""Masks that cancel in the sum of all sites, and recovery when sites drop out.

Secure aggregation by Bonawitz and others (2017). Two sites agree on a key (X25519, HKDF) and expand it with ChaCha20 to
a mask that one adds and the other subtracts; each adds a mask of its own, too. Both secrets are split among the sites
by Shamir's scheme: if a site drops out, the others reveal its key, otherwise its own mask's seed, never both.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sarsteer.federated.errors import FederationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]

_PRIME = 2**521 - 1
SHARE = 66
"""Bytes of a share: a number below the prime."""


def new_key() -> X25519PrivateKey:
    """A fresh X25519 key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.generate()


def key_of(private: bytes) -> X25519PrivateKey:
    """The key with these private bytes."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private)


def agree(key: X25519PrivateKey, public: bytes, purpose: bytes) -> bytes:
    """32 bytes that the owners of both keys know.

    Raises:
        FederationError: the public key is not valid.

    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise FederationError("a site sent an invalid key; leave it out") from None
    return HKDF(SHA256(), 32, None, b"sarsteer federated 1 " + purpose).derive(shared)


def mask(seed: bytes, length: int) -> Words:
    """``length`` words from a seed of 32 bytes, used once."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    stream = Cipher(ChaCha20(seed, bytes(16)), None).encryptor()
    return np.frombuffer(stream.update(bytes(8 * length)), "<u8").astype(np.uint64)


def seal(key: bytes, text: bytes, about: bytes) -> bytes:
    """Encrypt and authenticate ``text``; ``about`` is authenticated, too."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = secrets.token_bytes(12)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """The inverse of ``seal``.

    Raises:
        FederationError: the text was changed, or is meant for someone else.

    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:12], sealed[12:], about)
    except (InvalidTag, ValueError):
        raise FederationError("a share was changed on its way; stop, and check the server") from None


def split(secret: bytes, threshold: int, places: list[int]) -> dict[int, bytes]:
    """Shares of ``secret`` (32 bytes), one for each place from 1: any ``threshold`` of them give it back."""
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(_PRIME) for _ in range(threshold - 1))]
    shares = {}
    for place in places:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * place + coefficient) % _PRIME
        shares[place] = value.to_bytes(SHARE, "big")
    return shares


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of these shares, of which there are at least as many as its threshold.

    Raises:
        FederationError: the shares are not those of one secret.

    """
    total = 0
    for place, share in shares.items():
        top = bottom = 1
        for other in shares:
            if other != place:
                top, bottom = top * -other % _PRIME, bottom * (place - other) % _PRIME
        total = (total + int.from_bytes(share, "big") * top * pow(bottom, -1, _PRIME)) % _PRIME
    if total >= 2**256:
        raise FederationError("shares of different secrets: a site sent a wrong one")
    return total.to_bytes(32, "big")
