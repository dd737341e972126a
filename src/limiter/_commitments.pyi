from typing import NamedTuple, final

from limiter._core import Core

class Standing(NamedTuple):
    position: int
    fate: int
    event_ms: int
    lapse_ms: int | None

@final
class Commitments:
    def __new__(cls, core: Core) -> Commitments: ...
    def position_of(self, account: str, request_id: str, now_ms: int) -> int | None: ...
    def cancel(self, account: str, position: int, now_ms: int) -> Standing | None: ...
    def confirm(self, account: str, position: int, now_ms: int) -> Standing | None: ...
