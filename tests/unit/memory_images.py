"""Images in memory: what `limiter.image_store.ImageStore` is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from limiter import bounds
from limiter.image_store import ImageStore, Record


class MemoryImages(ImageStore):
    """Keeps records in a dict, and nothing else is different."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}

    def write(self, records: Sequence[Record]) -> None:
        for key, content in records:
            if content is None:
                self.records.pop(key, None)
            else:
                self.records[key] = content

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], bytes | None]]:
        yield self.get

    def _read(self, key: bytes) -> bytes | None:
        return self.records.get(key)

    def _keys(self, key: bytes, prefix: bytes) -> list[bytes]:
        return [at for at, _ in self._next(key, prefix)]

    def _next(
        self, key: bytes, prefix: bytes, byte_limit: int = bounds.STORE_READ_BYTES_MAX
    ) -> list[tuple[bytes, bytes]]:
        return [
            (at, content)
            for at, content in sorted(self.records.items())
            if at >= key and at.startswith(prefix)
        ]
