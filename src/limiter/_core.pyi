from collections.abc import Callable
from typing import final

from limiter._kinds import Binding as Binding
from limiter._kinds import Condition as Condition
from limiter._kinds import Kind as Kind
from limiter._kinds import Plan as Plan
from limiter._kinds import Rule as Rule

@final
class Core:
    def __new__(
        cls,
        digest_key: bytes,
        bind: Callable[[str], Binding],
        define_kind: Callable[[bytes], Kind],
    ) -> Core: ...
    @property
    def appended(self) -> int: ...
    @property
    def last_event_ms(self) -> int: ...
    @property
    def pending_bytes(self) -> int: ...
    @property
    def account_count(self) -> int: ...
    def policies_changed(self) -> None: ...
    def append_revision(self, payload: bytes, now_ms: int) -> None: ...
    def take_group(self) -> tuple[int, bytes, int] | None: ...
    def replay(
        self, group_number: int, events: bytes, on_revision: Callable[[bytes, int], None]
    ) -> int: ...
