"""The API keys in force: made, found by their secrets, rotated and revoked.

In flow changes from the access service, each drafted whole, and journalled changes at start; out
flow the bytes for the journal, and for a secret that somebody shows the guard of its key.

A key as its caller shows it is `lk_{id}_{secret}`: the id finds it, and the secret, 32 random bytes
in base 62, proves it. Only the SHA-256 of the secret is kept.

What always holds: a guard that was given out ends in the same step in which its key is revoked,
rotated without grace, or replaced; two secrets are compared in a time that tells nothing; the state
follows from the journalled changes alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from limiter import access, bounds, errors
from limiter._guard import Guard

__all__ = ["Change", "KeyLog", "KeyStore", "Secret", "StoredKey", "secret_of"]

_PREFIX: Final = "lk_"
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}
_SECRET_BYTES: Final = 32
# So many digits hold 32 bytes, and one fewer does not.
_SECRET_DIGITS: Final = 43


@dataclass(frozen=True, slots=True)
class Secret:
    """A new secret: what its owner shows, and what is kept of it."""

    shown: str
    hash: bytes

    @classmethod
    def make(cls, api_key_id: str) -> Secret:
        """One of the key with this id."""
        data = secrets.token_bytes(_SECRET_BYTES)
        number = int.from_bytes(data, "big")
        digits = []
        for _ in range(_SECRET_DIGITS):
            number, value = divmod(number, len(_DIGITS))
            digits.append(_DIGITS[value])
        return cls(f"{_PREFIX}{api_key_id}_{''.join(reversed(digits))}", _hash(data))


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def secret_of(shown: str) -> tuple[str, bytes] | None:
    """The id of the key and the hash of the secret in what somebody shows, None for no key."""
    if not shown.startswith(_PREFIX):
        return None
    api_key_id, _, digits = shown.removeprefix(_PREFIX).partition("_")
    if len(digits) != _SECRET_DIGITS or not bounds.RESOURCE_ID_PATTERN.fullmatch(api_key_id):
        return None
    number = 0
    for digit in digits:
        value = _VALUES.get(digit)
        if value is None:
            return None
        number = number * len(_DIGITS) + value
    if number >> (8 * _SECRET_BYTES):
        return None
    return api_key_id, _hash(number.to_bytes(_SECRET_BYTES, "big"))


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and the hashes of its secrets; the old one is good up to `old_expire_ms`."""

    key: access.ApiKey
    hash: bytes
    old_hash: bytes = b""
    old_expire_ms: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One change of keys as the journal keeps it: what was put is complete."""

    time_ms: int
    author: str
    put: tuple[StoredKey, ...] = ()
    deleted: tuple[str, ...] = ()


class KeyLog(Protocol):
    """What a change is told to."""

    def append(self, change: Change) -> None:
        """Journals a change."""


class _Guarded:
    """A stored key with the guards that were given out for it."""

    def __init__(self, stored: StoredKey) -> None:
        self.stored = stored
        self._guards: dict[tuple[bytes, str], Guard] = {}

    def guard(self, hashed: bytes, author: str, end_ms: int | None) -> Guard:
        """The one guard of who proves the key in this way."""
        guard = self._guards.get((hashed, author))
        if guard is None:
            guard = Guard(self.stored.key.caller(author), end_ms)
            self._guards[hashed, author] = guard
        return guard

    def change(self, stored: StoredKey) -> None:
        """The key is this from now on; who proved it in a way that is not good any more is out."""
        self.stored = stored
        if stored.key.revoke_ms is not None:
            self.end(revoked())
        for (hashed, author), guard in tuple(self._guards.items()):
            if hashed == stored.old_hash and hashed:
                guard.end_by(stored.old_expire_ms)
            elif hashed and hashed != stored.hash:
                guard.end(_unknown())
                del self._guards[hashed, author]

    def end(self, error: errors.LimiterError) -> None:
        """Ends all of them."""
        for guard in self._guards.values():
            guard.end(error)
        self._guards.clear()


class KeyStore:
    """The keys in force. `log` is where changes are journalled; None while they are restored."""

    def __init__(self) -> None:
        self.log: KeyLog | None = None
        self._keys: dict[str, _Guarded] = {}
        self._names: list[str] | None = None
        # Which live key has which certificate name.
        self._of_certificate: dict[str, str] = {}

    # --- Proving ----------------------------------------------------------------------------------

    def guard_of_secret(self, shown: str, now_ms: int) -> Guard:
        """The guard of the key that somebody shows. Raises `Unauthenticated`."""
        found = secret_of(shown)
        guarded = None if found is None else self._keys.get(access.key_name(found[0]))
        if found is None or guarded is None:
            raise _unknown()
        stored, hashed = guarded.stored, found[1]
        end_ms = stored.key.expire_ms
        if hmac.compare_digest(hashed, stored.hash):
            pass
        elif stored.old_hash and hmac.compare_digest(hashed, stored.old_hash):
            old_ms = stored.old_expire_ms
            end_ms = old_ms if end_ms is None else min(end_ms, old_ms)
        else:
            raise _unknown()
        return self._live_guard(guarded, hashed, "", end_ms, now_ms)

    def guard_of_certificate(self, names: Iterable[str], now_ms: int) -> Guard | None:
        """The guard of the key for a client certificate with these names, None without one.
        Raises `Unauthenticated` when it has ended."""
        for name in names:
            guarded = self._keys.get(self._of_certificate.get(name, ""))
            if guarded is not None:
                end_ms = guarded.stored.key.expire_ms
                return self._live_guard(guarded, b"", f"certificates/{name}", end_ms, now_ms)
        return None

    def _live_guard(
        self, guarded: _Guarded, hashed: bytes, author: str, end_ms: int | None, now_ms: int
    ) -> Guard:
        if guarded.stored.key.revoke_ms is not None:
            raise revoked()
        guard = guarded.guard(hashed, author, end_ms)
        guard.renew(now_ms)
        return guard

    def close(self, why: errors.LimiterError) -> None:
        """Ends all guards with this fault: this state of the keys does not count any more."""
        for guarded in self._keys.values():
            guarded.end(why)

    # --- Reading ----------------------------------------------------------------------------------

    def get(self, name: str) -> StoredKey | None:
        """The key called `name`."""
        guarded = self._keys.get(name)
        return None if guarded is None else guarded.stored

    def page(self, after: str, count: int, caller: access.Caller) -> list[access.ApiKey]:
        """Up to `count` of the keys that the caller may see, in the order of their names, from the
        first one beyond `after`."""
        if self._names is None:
            self._names = sorted(self._keys)
        found: list[access.ApiKey] = []
        for index in range(bisect_right(self._names, after), len(self._names)):
            key = self._keys[self._names[index]].stored.key
            if caller.covers_accounts(key):
                found.append(key)
                if len(found) == count:
                    break
        return found

    def can_make_keys(self, now_ms: int, besides: str = "") -> bool:
        """Whether some live key, other than `besides`, could make any other key."""
        return any(
            guarded.stored.key.role is access.Role.OPERATOR
            and guarded.stored.key.is_live(now_ms)
            and guarded.stored.key.expire_ms is None
            for name, guarded in self._keys.items()
            if name != besides
        )

    # --- Changing ---------------------------------------------------------------------------------

    def create(
        self, key: access.ApiKey, now_ms: int, author: str, secret: Secret | None = None
    ) -> tuple[access.ApiKey, Secret]:
        """Makes a key that has been checked, with this secret or a new one; returns both.

        Raises `AlreadyExists` (the name, or the certificate's) and `ResourceExhausted`.
        """
        if key.name in self._keys:
            raise errors.AlreadyExists(
                "ALREADY_EXISTS",
                f"{key.name} exists already; choose another id, or rotate that one",
                metadata={"resource": key.name},
            )
        holder = self._keys.get(self._of_certificate.get(key.certificate_name, ""))
        if holder is not None and holder.stored.key.is_live(now_ms):
            raise errors.AlreadyExists(
                "ALREADY_EXISTS",
                f"another key is for the certificate name {key.certificate_name!r} already; revoke"
                " that one first",
            )
        key = replace(key, create_ms=now_ms, revoke_ms=None)
        secret = secret or Secret.make(access.key_id(key.name, "name"))
        deleted = self._room(now_ms)
        self._commit(Change(now_ms, author, (StoredKey(key, secret.hash),), deleted))
        return key, secret

    def revoke(self, name: str, now_ms: int, author: str) -> access.ApiKey:
        """Ends a key for good, if it has not been; returns it. Raises `FailedPrecondition` for the
        last one that could make another."""
        stored = self._keys[name].stored
        if stored.key.revoke_ms is not None:
            return stored.key
        is_maker = stored.key.role is access.Role.OPERATOR and stored.key.expire_ms is None
        if is_maker and stored.key.is_live(now_ms) and not self.can_make_keys(now_ms, name):
            raise errors.FailedPrecondition(
                "LAST_KEY",
                f"{name} is the last operator's key that does not expire: nobody could make"
                " another one; create its successor first, or rotate it",
                metadata={"resource": name},
            )
        key = replace(stored.key, revoke_ms=now_ms)
        self._commit(Change(now_ms, author, (replace(stored, key=key),)))
        return key

    def rotate(self, name: str, grace_ms: int, now_ms: int, author: str) -> Secret:
        """Gives a key a new secret; the old one stays good for `grace_ms`. Raises
        `FailedPrecondition` for a key that has ended."""
        stored = self._keys[name].stored
        if not stored.key.is_live(now_ms):
            raise errors.FailedPrecondition(
                "KEY_ENDED", f"{name} is revoked or has expired; create another one",
                metadata={"resource": name},
            )  # fmt: skip
        secret = Secret.make(access.key_id(name, "name"))
        old = (stored.hash, now_ms + grace_ms) if grace_ms else (b"", 0)
        self._commit(Change(now_ms, author, (StoredKey(stored.key, secret.hash, *old),)))
        return secret

    def restore(self, change: Change) -> None:
        """Makes a journalled change so. Raises KeyError if it cannot follow those before it."""
        self._install(change)

    def _room(self, now_ms: int) -> tuple[str, ...]:
        """The keys that must go before another one can come: at the ceiling, the oldest dead."""
        if len(self._keys) < bounds.API_KEYS_MAX:
            return ()
        dead = [
            each.stored.key for each in self._keys.values() if not each.stored.key.is_live(now_ms)
        ]
        if not dead:
            raise errors.ResourceExhausted(
                "TOO_MANY_KEYS",
                f"there are {bounds.API_KEYS_MAX:,} keys, which is the ceiling; revoke some first",
            )
        return (min(dead, key=lambda key: (key.create_ms, key.name)).name,)

    def _commit(self, change: Change) -> None:
        if self.log is None:
            raise RuntimeError("the keys are not connected to a journal")
        self.log.append(change)
        # The point of no return: nothing below can fail.
        self._install(change)

    def _install(self, change: Change) -> None:
        for name in change.deleted:
            self._keys.pop(name).end(revoked())
            self._names = None
        for stored in change.put:
            key = stored.key
            guarded = self._keys.get(key.name)
            if guarded is None:
                self._keys[key.name] = _Guarded(stored)
                self._names = None
            else:
                guarded.change(stored)
            if key.certificate_name and key.revoke_ms is None:
                self._of_certificate[key.certificate_name] = key.name
            elif self._of_certificate.get(key.certificate_name) == key.name:
                del self._of_certificate[key.certificate_name]


def _unknown() -> errors.Unauthenticated:
    return errors.Unauthenticated("KEY_UNKNOWN", "there is no such key; show a key that is good")


def revoked() -> errors.Unauthenticated:
    """The fault of who shows a key that was good once."""
    return errors.Unauthenticated("KEY_REVOKED", "the key was revoked; show another one")
