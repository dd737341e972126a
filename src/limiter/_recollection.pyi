from typing import final

from limiter._core import Core

@final
class Recollection:
    @property
    def since_ms(self) -> int | None: ...
    def __new__(
        cls,
        core: Core,
        account: str,
        first_ms: int,
        quiet_ms: int,
        end_ms: int,
        bytes_max: int = ...,
    ) -> Recollection: ...
    def walk(self, most: int) -> bool: ...
