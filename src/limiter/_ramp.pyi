from collections.abc import Sequence
from typing import final

from limiter._calendar import Zone

@final
class Ramp:
    @property
    def zone(self) -> Zone: ...
    @property
    def identity(self) -> tuple[object, ...]: ...
    @staticmethod
    def daily(
        zone: Zone, ceiling_count: int, start_day: int, start_count: int, step_count: int
    ) -> Ramp: ...
    @staticmethod
    def tiers(zone: Zone, ceiling_count: int, tiers: Sequence[tuple[int, int]]) -> Ramp: ...
    def max_count(self, at_ms: int) -> int: ...
