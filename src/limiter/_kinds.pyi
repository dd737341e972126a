from collections.abc import Callable, Iterable, Sequence
from typing import final

from limiter._calendar import Window
from limiter._hours import Hours
from limiter._ramp import Ramp

# (dimension number, values, negate)
Condition = tuple[int, tuple[str, ...], bool]

@final
class Kind:
    @property
    def definition(self) -> bytes: ...
    @property
    def window(self) -> Window: ...
    def __new__(
        cls,
        definition: bytes,
        measure: int,
        per: Iterable[int],
        window: Window,
        counts: Sequence[Condition],
    ) -> Kind: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Rule:
    @property
    def kind(self) -> Kind | None: ...
    @property
    def ramp(self) -> Ramp | None: ...
    @property
    def hours(self) -> Hours | None: ...
    def __new__(
        cls,
        policy: str,
        limit_id: str,
        kind: Kind | None,
        max_count: int,
        enforcement: int,
        applies_to: Sequence[Condition],
        ramp: Ramp | None = None,
        hours: Hours | None = None,
        follows_account: bool = False,
        etag: str = "",
    ) -> Rule: ...

@final
class Plan:
    @property
    def rules(self) -> tuple[Rule, ...]: ...
    @property
    def has_policy(self) -> bool: ...
    def __new__(cls, rules: Iterable[Rule], has_policy: bool) -> Plan: ...

@final
class Binding:
    @property
    def kinds(self) -> tuple[tuple[Kind, int], ...]: ...
    @property
    def resolve(self) -> Callable[[str | None, str | None], Plan]: ...
    @property
    def time_zone(self) -> str: ...
    def __new__(
        cls,
        kinds: Iterable[tuple[Kind, int]],
        resources: Iterable[str],
        campaigns: Iterable[str],
        resolve: Callable[[str | None, str | None], Plan],
        time_zone: str = "UTC",
        allowed_categories: Iterable[str] = (),
    ) -> Binding: ...
