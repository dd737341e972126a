"""What gRPC puts into HTTP/2's fields: statuses, metadata and compression, to and from bytes.

In: statuses, exceptions and pairs of metadata. Out: lists of (name, value) in bytes, ready for a
header block, and back. The source is gRPC's PROTOCOL-HTTP2 document.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import grpc

from limiter import bounds, errors, faults_told
from limiter.service.status import DETAILS_KEY, code_of, seen_by_callers, to_status

__all__ = [
    "ACCEPTED_ENCODINGS",
    "Faults",
    "Fields",
    "Metadata",
    "decoded_metadata",
    "encoded_metadata",
    "trailers",
]

Fields = list[tuple[bytes, bytes]]
Metadata = tuple[tuple[str, str | bytes], ...]

ACCEPTED_ENCODINGS: Final = (b"grpc-accept-encoding", b"identity,gzip")

# Printable ASCII but for the percent sign goes as it is.
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {0x25}

# Fields of the protocol itself, which are not metadata.
_RESERVED: Final = frozenset({b"te", b"grpc-accept-encoding", b"content-length", b"host"})

_GZIP_WINDOW_BITS: Final = 16 + zlib.MAX_WBITS


def percent_encoded(message: str) -> bytes:
    """A status message as it travels in `grpc-message`."""
    data = message.encode("utf-8", "replace")
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in data)


def encoded_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> Fields:
    """Metadata as header fields; values under names in `-bin` go as base64. Raises ValueError for
    what no header field can be."""
    fields: Fields = []
    for name, value in pairs:
        if len(fields) == bounds.METADATA_FIELDS_MAX:
            raise ValueError(f"more than {bounds.METADATA_FIELDS_MAX} pairs of metadata")
        key = name.lower().encode("ascii")
        if key.endswith(b"-bin"):
            data = value if isinstance(value, bytes) else value.encode()
            fields.append((key, base64.b64encode(data).rstrip(b"=")))
        else:
            fields.append((key, value if isinstance(value, bytes) else value.encode("ascii")))
    return fields


def decoded_metadata(fields: Sequence[tuple[bytes, bytes]]) -> Metadata:
    """The metadata among a request's header fields. Raises InvalidArgument for broken base64."""
    pairs: list[tuple[str, str | bytes]] = []
    for key, value in fields:
        if key in _RESERVED:
            continue
        name = key.decode("latin-1")
        if not key.endswith(b"-bin"):
            pairs.append((name, value.decode("latin-1")))
            continue
        # Several values may have been joined into one field.
        for part in value.split(b","):
            try:
                padded = part + b"=" * (-len(part) % 4)
                pairs.append((name, base64.b64decode(padded, validate=True)))
            except binascii.Error:
                raise errors.InvalidArgument(
                    "MALFORMED_METADATA", f"{name}: the value is not base64"
                ) from None
    return tuple(pairs)


def trailers(code: int, message: str, pairs: Iterable[tuple[str, str | bytes]] = ()) -> Fields:
    """The trailers of a call that ends with a status."""
    fields = [(b"grpc-status", str(code).encode())]
    if message:
        fields.append((b"grpc-message", percent_encoded(message)))
    return fields + encoded_metadata(pairs)


class Faults:
    """What goes wrong in a call, as trailers."""

    def trailers_of(self, error: Exception) -> Fields:
        """The trailers of a call that ends with this exception; what is no LimiterError is logged
        and hidden."""
        seen = seen_by_callers(error)
        faults_told.count(seen.code, seen.reason)
        status = to_status(seen)
        return trailers(status.code, status.message, ((DETAILS_KEY, status.SerializeToString()),))

    def deadline_exceeded(self) -> Fields:
        """The call's time was over before it was decided."""
        faults_told.count("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        return trailers(code_of(grpc.StatusCode.DEADLINE_EXCEEDED), "Deadline Exceeded")

    def unknown_encoding(self) -> Fields:
        """The request is compressed in a way that nobody here can read."""
        faults_told.count("UNIMPLEMENTED", "UNKNOWN_ENCODING")
        code = code_of(grpc.StatusCode.UNIMPLEMENTED)
        return [
            *trailers(code, "unknown grpc-encoding; see grpc-accept-encoding"),
            ACCEPTED_ENCODINGS,
        ]

    def unfinished(self) -> Fields:
        """The rest of a request does not come."""
        faults_told.count("DEADLINE_EXCEEDED", "UNFINISHED_REQUEST")
        code = code_of(grpc.StatusCode.DEADLINE_EXCEEDED)
        return trailers(code, "the request was begun and not finished")

    def too_many(self) -> Fields:
        """There is no room for another call."""
        return self.trailers_of(
            errors.ResourceExhausted(
                "OVERLOADED",
                "too many calls are under way; nothing was done",
                retry_after_ms=bounds.RETRY_AFTER_MS,
            )
        )

    def unknown_method(self, path: str) -> Fields:
        """There is no such method."""
        faults_told.count("UNIMPLEMENTED", "UNKNOWN_METHOD")
        return trailers(code_of(grpc.StatusCode.UNIMPLEMENTED), f"unknown method {path}")

    def too_large(self, size: int) -> Fields:
        """A message is larger than any may be."""
        faults_told.count("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
        return trailers(
            code_of(grpc.StatusCode.RESOURCE_EXHAUSTED),
            f"a message of {size} bytes is larger than {bounds.MESSAGE_BYTES_MAX}; send less at"
            " once",
        )

    def inflated(self, is_gzip: bool, data: bytes) -> bytes:
        """A compressed message, inflated. Raises LimiterError for one that is not what it says or
        larger than any may be."""
        if not is_gzip:
            raise errors.InvalidArgument(
                "MALFORMED_REQUEST", "a message is compressed, but there is no grpc-encoding"
            )
        inflating = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            plain = inflating.decompress(data, bounds.MESSAGE_BYTES_MAX + 1)
        except zlib.error as error:
            raise errors.InvalidArgument(
                "MALFORMED_REQUEST", f"a message is not gzip: {error}"
            ) from None
        if len(plain) > bounds.MESSAGE_BYTES_MAX:
            raise errors.ResourceExhausted(
                "MESSAGE_TOO_LARGE",
                f"a message inflates to more than {bounds.MESSAGE_BYTES_MAX} bytes; send less at"
                " once",
            )
        if not inflating.eof:
            raise errors.InvalidArgument("MALFORMED_REQUEST", "a gzip message is cut off")
        return plain
