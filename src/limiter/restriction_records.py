"""One restriction as it is packed and told: what one limit denied one contact on one day.

In flow the packed rows of `limiter._denials`; out flow the same rows, merged, and what they say. A
packed row is a head of fixed size and texts behind it. The head's first part tells of the newest
denial, the rest of the first one, so two rows of the same restriction merge by taking the one part
of the newer and the other of the older.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from limiter import bounds, errors

__all__ = [
    "Forgotten",
    "Parts",
    "Restriction",
    "day_of",
    "merge",
    "parts_of",
    "restriction_of",
    "without_names",
]

_VERSION: Final = 1
_FLAG_SHADOW: Final = 1
_FLAG_LIMIT: Final = 2
_FLAG_FORGOTTEN: Final = 4

# Version, flags, enforcement, size of the etag, reason; count, last, retry, max, used, remaining,
# reset, counted since; the etag.
_NEWEST: Final = struct.Struct("<BBBBi8q64s")
_COUNT: Final = struct.Struct("<q")
_COUNT_AT: Final = 8
# First, message count; the sizes of the texts.
_FIRST: Final = struct.Struct("<2q14H")
_HEAD_BYTES: Final = _NEWEST.size + _FIRST.size
# Places among the texts of what can tell who somebody is.
_CONTACT: Final = 1
_ADDRESS: Final = 2
_ZONE: Final = 10
_REFERENCE: Final = 11
# All that a row needs to find its place: flags and reason, count and last, first, sizes.
_PLACE: Final = struct.Struct("<xBxxi2q112xq8x14H")

_NO_TIME: Final = -1


class Parts(NamedTuple):
    """What places a packed row and finds it again."""

    account: bytes
    # The contact, or where none is named the address.
    person: bytes
    contact: bytes
    address: bytes
    campaign: bytes
    policy: bytes
    limit_id: bytes
    # The reason of a denial by no limit, else 0.
    reason: int
    shadow: bool
    denial_count: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Who is to be forgotten in an account: one contact, or one address."""

    account: str
    contact: str = ""
    address: str = ""

    def is_in(self, parts: Parts) -> bool:
        """Whether a row is about them."""
        return parts.account == self.account.encode() and (
            parts.contact == self.contact.encode()
            if self.contact
            else parts.address == self.address.encode()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """What was denied. The texts are as they were sent, an instant is None where there is none, and
    the numbers of the limit mean nothing unless one `has_limit`."""

    account: str
    contact: str
    address: str
    channel: str
    resource: str
    campaign: str
    agent: str
    team: str
    source: str
    category: str
    contact_time_zone: str
    reference: str
    policy: str
    limit_id: str
    message_count: int
    first_ms: int
    reason: int
    has_limit: bool
    shadow: bool
    # Whether a name has been erased from it.
    forgotten: bool
    enforcement: int
    etag: str
    count: int
    last_ms: int
    retry_ms: int | None
    max_count: int
    used_count: int
    remaining_count: int
    reset_ms: int | None
    counted_since_ms: int | None


def day_of(instant_ms: int) -> int:
    """The number of the day, in UTC, that an instant lies in."""
    return instant_ms // bounds.DAY_MS


def parts_of(packed: bytes) -> Parts:
    """What places a packed row that has just been made."""
    flags, reason, count, last_ms, first_ms, *sizes = _PLACE.unpack_from(packed)
    at = _HEAD_BYTES
    account = packed[at : at + sizes[0]]
    at += sizes[0]
    contact = packed[at : at + sizes[1]]
    at += sizes[1]
    address = packed[at : at + sizes[2]]
    at += sizes[2] + sizes[3] + sizes[4]
    campaign = packed[at : at + sizes[5]]
    limit_at = len(packed) - sizes[13]
    policy = packed[limit_at - sizes[12] : limit_at]
    return Parts(
        account,
        contact or address,
        contact,
        address,
        campaign,
        policy,
        packed[limit_at:],
        0 if flags & _FLAG_LIMIT else reason,
        bool(flags & _FLAG_SHADOW),
        count,
        first_ms,
        last_ms,
    )


def merge(older: bytes, newer: bytes) -> bytes:
    """One row of two, the denials of the second having come after those of the first."""
    _check_version(older)
    count = _COUNT.unpack_from(older, _COUNT_AT)[0] + _COUNT.unpack_from(newer, _COUNT_AT)[0]
    return b"".join(
        (
            newer[:_COUNT_AT],
            _COUNT.pack(count),
            newer[_COUNT_AT + _COUNT.size : _NEWEST.size],
            older[_NEWEST.size :],
        )
    )


def without_names(packed: bytes, who: Forgotten) -> bytes:
    """A row about somebody, without what could tell who they are. To forget a contact takes all
    that belongs to one recipient; to forget an address leaves whose it was, unless they are called
    like it."""
    _check_version(packed)
    head = bytearray(packed[:_HEAD_BYTES])
    first_ms, message_count, *sizes = _FIRST.unpack_from(packed, _NEWEST.size)
    texts = []
    at = _HEAD_BYTES
    for size in sizes:
        texts.append(packed[at : at + size])
        at += size
    places = [_ADDRESS, _REFERENCE]
    if who.contact or texts[_CONTACT] == texts[_ADDRESS]:
        places += [_CONTACT, _ZONE]
    for place in places:
        texts[place] = b""
    head[1] |= _FLAG_FORGOTTEN
    _FIRST.pack_into(head, _NEWEST.size, first_ms, message_count, *map(len, texts))
    return bytes(head) + b"".join(texts)


def restriction_of(packed: bytes) -> Restriction:
    """What a packed row says. Raises DataLoss for one of another version."""
    _check_version(packed)
    (
        _version,
        flags,
        enforcement,
        etag_size,
        reason,
        count,
        last_ms,
        retry_ms,
        max_count,
        used_count,
        remaining_count,
        reset_ms,
        since_ms,
        etag,
    ) = _NEWEST.unpack_from(packed)
    first_ms, message_count, *sizes = _FIRST.unpack_from(packed, _NEWEST.size)
    texts = []
    at = _HEAD_BYTES
    for size in sizes:
        texts.append(packed[at : at + size].decode())
        at += size
    return Restriction(
        account=texts[0],
        contact=texts[1],
        address=texts[2],
        channel=texts[3],
        resource=texts[4],
        campaign=texts[5],
        agent=texts[6],
        team=texts[7],
        source=texts[8],
        category=texts[9],
        contact_time_zone=texts[10],
        reference=texts[11],
        policy=texts[12],
        limit_id=texts[13],
        message_count=message_count,
        first_ms=first_ms,
        reason=reason,
        has_limit=bool(flags & _FLAG_LIMIT),
        shadow=bool(flags & _FLAG_SHADOW),
        forgotten=bool(flags & _FLAG_FORGOTTEN),
        enforcement=enforcement,
        etag=etag[:etag_size].decode(),
        count=count,
        last_ms=last_ms,
        retry_ms=_instant(retry_ms),
        max_count=max_count,
        used_count=used_count,
        remaining_count=remaining_count,
        reset_ms=_instant(reset_ms),
        counted_since_ms=_instant(since_ms),
    )


def _instant(instant_ms: int) -> int | None:
    return None if instant_ms == _NO_TIME else instant_ms


def _check_version(packed: bytes) -> None:
    if packed[0] != _VERSION:
        raise errors.DataLoss(
            "RESTRICTIONS_FORMAT",
            f"a restriction is packed in version {packed[0]}, this version of limiter reads"
            f" {_VERSION}: use the version that wrote it",
        )
