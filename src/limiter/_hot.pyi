from collections.abc import Callable
from typing import final

from limiter._activity import Activity
from limiter._calendar import Zone
from limiter._core import Core
from limiter._guard import Guard
from limiter._kinds import Rule

@final
class Decider:
    def __new__(
        cls,
        core: Core,
        compile_inline: Callable[[bytes, str], Rule],
        find_zone: Callable[[str, str], Zone],
        require_policy: bool = False,
        activity: Activity | None = None,
    ) -> Decider: ...
    def check(self, request: bytes, now_ms: int, guard: Guard | None = None) -> bytes: ...
    def commit(
        self, request: bytes, now_ms: int, guard: Guard | None = None
    ) -> tuple[bytes, bool]: ...
    def check_batch(self, request: bytes, now_ms: int, guard: Guard | None = None) -> bytes: ...
    def commit_batch(
        self, request: bytes, now_ms: int, guard: Guard | None = None
    ) -> tuple[bytes, bool]: ...
    def get_usage(self, request: bytes, now_ms: int, guard: Guard | None = None) -> bytes: ...
