"""Secrets at rest: bytes sealed so that only this data folder opens them.

In flow what a caller sent in the clear and the folder's key; out flows the same, encrypted and
authenticated (AES-256-GCM), and back again. What is sealed says nothing but its length.

A sealed text is

    salt (16 bytes) | number (8 bytes) | ciphertext | tag (16 bytes)

What always holds: no key sees a nonce twice. Each sealer draws a salt of its own, which makes its
key, and numbers what it seals; so neither restarts nor copies of a folder repeat a pair, and no
count of texts wears a key out. A text opens only for the purpose and beside the associated data
with which it was sealed, so it cannot be moved to another place.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from itertools import count
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from limiter import errors

__all__ = ["OVERHEAD_BYTES", "Sealer"]

_SALT_BYTES: Final = 16
_NUMBER_BYTES: Final = 8
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 32
# The number fills the end of a nonce of 12 bytes.
_NONCE_HEAD: Final = bytes(12 - _NUMBER_BYTES)
# How much longer a text is once it is sealed.
OVERHEAD_BYTES: Final = _SALT_BYTES + _NUMBER_BYTES + _TAG_BYTES
# Keys that were derived lately; each start of the server makes one.
_KEYS_KEPT: Final = 64


class Sealer:
    """Seals and opens the texts of one purpose. `folder_key` are the secret bytes of the data
    folder; another purpose has other keys. May be used from several threads."""

    def __init__(self, folder_key: bytes, purpose: str) -> None:
        self._folder_key = folder_key
        self._purpose = purpose
        self._cipher = lru_cache(_KEYS_KEPT)(self._derive)
        self._salt = secrets.token_bytes(_SALT_BYTES)
        self._numbers = count()

    def seal(self, plain: bytes, associated: bytes = b"") -> bytes:
        """The bytes, sealed. They open only beside the same associated data."""
        number = next(self._numbers).to_bytes(_NUMBER_BYTES, "big")
        sealed = self._cipher(self._salt).encrypt(_NONCE_HEAD + number, plain, associated)
        return self._salt + number + sealed

    def open(self, sealed: bytes, associated: bytes = b"") -> bytes:
        """What was sealed. Raises `DataLoss` for anything but a text that a sealer of this folder
        and purpose has sealed beside this associated data."""
        salt, rest = sealed[:_SALT_BYTES], sealed[_SALT_BYTES:]
        number, cipher = rest[:_NUMBER_BYTES], rest[_NUMBER_BYTES:]
        try:
            if len(cipher) < _TAG_BYTES:
                raise InvalidTag
            return self._cipher(salt).decrypt(_NONCE_HEAD + number, cipher, associated)
        except InvalidTag as error:
            raise errors.DataLoss(
                "SEALED_DATA_DAMAGED",
                f"what was sealed for {self._purpose} cannot be opened: it is damaged, or belongs"
                " to another data folder or another place; restore both from one backup",
            ) from error

    def _derive(self, salt: bytes) -> AESGCM:
        info = f"limiter sealed {self._purpose}".encode()
        kdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=salt, info=info)
        return AESGCM(kdf.derive(self._folder_key))
