from collections.abc import Callable
from typing import final

from limiter._calendar import Zone
from limiter._core import Core
from limiter._kinds import Rule

@final
class Planner:
    def __new__(
        cls,
        core: Core,
        compile_inline: Callable[[bytes, str], Rule],
        find_zone: Callable[[str, str], Zone],
        require_policy: bool,
        request: bytes,
    ) -> Planner: ...
    @property
    def account(self) -> str: ...
    @property
    def resource(self) -> str: ...
    @property
    def campaign(self) -> str: ...
    def decode(self) -> None: ...
    def run(self, step_count: int, now_ms: int) -> bool: ...
    def take(self) -> bytes: ...
    def clear(self, row_count: int) -> bool: ...
