from collections.abc import Callable, Sequence
from typing import Final, final

from limiter._calendar import Zone

WEEK_MINUTES: Final[int]

@final
class Hours:
    @property
    def zone(self) -> Zone: ...
    @property
    def identity(self) -> tuple[object, ...]: ...
    def __new__(
        cls, ranges: Sequence[tuple[int, int]], zone: Zone, by_recipient: bool
    ) -> Hours: ...
    def is_open(self, at_ms: int) -> bool: ...
    def opening_ms(self, from_ms: int) -> int: ...

@final
class ZoneTable:
    def __new__(cls, find_zone: Callable[[str, str], Zone]) -> ZoneTable: ...
