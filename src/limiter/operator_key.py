"""The first key: made where keys are asked for and nobody has one that could make others.

In flow the keys of a state and the data folder. Out flows a file that only its owner can read, with
one line: an operator's key. What always holds: the file is on disk before the key is journalled, so
a key that counts can be read; what it held before counts no more, or there would be no new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from limiter import access
from limiter.keys import KeyStore, Secret
from limiter.store import write_whole

__all__ = ["FILE_NAME", "make_operator_key"]

FILE_NAME: Final = "operator.key"

_AUTHOR: Final = "server"


def make_operator_key(keys: KeyStore, folder: Path, now_ms: int) -> Path | None:
    """Makes an operator's key unless somebody has one that does not end; returns its file.

    The change is appended to the journal, and not waited for. Raises OSError.
    """
    if keys.can_make_keys(now_ms):
        return None
    names = (f"operator-{number}" if number > 1 else "operator" for number in range(1, 1 << 30))
    key_id = next(name for name in names if keys.get(access.key_name(name)) is None)
    secret = Secret.make(key_id)
    path = folder / FILE_NAME
    write_whole(path, f"{secret.shown}\n".encode())
    key = access.ApiKey(
        access.key_name(key_id), access.Role.OPERATOR, display_name="made by the server"
    )
    keys.create(key, now_ms, _AUTHOR, secret)
    return path
