"""Pages of lists: what a request asks for, and the token that leads to the next page.

What always holds: a token works only for the list that it was made for; it shows mistakes, it keeps
no secret.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final, Protocol

from limiter import bounds, errors

__all__ = ["Page", "PageRequest"]

_MARK_BYTES: Final = 8


class PageRequest(Protocol):
    """What the requests of all lists have in common."""

    @property
    def page_size(self) -> int:
        """The most that the page may hold; 0 for the usual size."""

    @property
    def page_token(self) -> str:
        """Where the page starts; empty for the first."""


class Page:
    """Which page of a list a request means: up to `size` items beyond the one called `after`.

    `what` says which list it is, with all that must stay the same from page to page.
    """

    def __init__(self, request: PageRequest, what: str) -> None:
        self._context = what.encode()
        if request.page_size < 0:
            raise errors.InvalidArgument.for_field(
                "page_size",
                f"1 to {bounds.PAGE_SIZE_MAX:,}, or 0 for {bounds.PAGE_SIZE_DEFAULT}; not"
                f" {request.page_size}",
            )
        self.size = min(request.page_size or bounds.PAGE_SIZE_DEFAULT, bounds.PAGE_SIZE_MAX)
        self.after = self._read_token(request.page_token)

    def next_token(self, last: str) -> str:
        """The token of the page after this one, which ends with the item called `last`."""
        name = last.encode()
        return base64.urlsafe_b64encode(self._mark(name) + name).decode().rstrip("=")

    def _read_token(self, token: str) -> str:
        if not token:
            return ""
        invalid = errors.InvalidArgument.for_field(
            "page_token",
            "not a token of this list; send next_page_token of the page before with everything but"
            " page_size as it was then, or nothing for the first page",
        )
        if len(token) > bounds.PAGE_TOKEN_BYTES_MAX:
            raise invalid
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
            mark, last = data[:_MARK_BYTES], data[_MARK_BYTES:]
            after = last.decode()
        except ValueError:
            raise invalid from None
        if not last or mark != self._mark(last):
            raise invalid
        return after

    def _mark(self, last: bytes) -> bytes:
        """What ties a token to its list."""
        return hashlib.blake2b(self._context + b" " + last, digest_size=_MARK_BYTES).digest()
