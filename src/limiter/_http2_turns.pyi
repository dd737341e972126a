from typing import final

from typing_extensions import disjoint_base

@disjoint_base
class Taker: ...

@final
class Turns:
    turn_s: float
    part_s: float
    def __new__(cls) -> Turns: ...
    @property
    def kept_bytes(self) -> int: ...
    @property
    def waiting_count(self) -> int: ...
    def take(self) -> None: ...
