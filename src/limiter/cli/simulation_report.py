"""What a simulation has found: as tables, and as a plot.

In: a SimulatePolicyResponse. Out: what people read. Accounts and days are many; the tables show
those with the most denials and say how many there are, and the JSON has them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from limiter.cli import plots
from limiter.cli.describe import limit_in_words
from limiter.v1 import policy_pb2, simulation_pb2

# Accounts and days that are shown.
_BUSIEST_COUNT = 8
_WORST_DAY_COUNT = 8


def tables(
    found: simulation_pb2.SimulatePolicyResponse, policies: Sequence[policy_pb2.Policy]
) -> RenderableType:
    """All in short: the totals, then what was denied by limit, by account and by day."""
    parts: list[RenderableType] = [Text(_totals(found)), "", _limits(found, policies)]
    if any(row.binding_count for row in found.rows):
        parts += [_accounts(found), _days(found)]
    return Group(*parts)


def _totals(found: simulation_pb2.SimulatePolicyResponse) -> str:
    days = f" on {len(found.days):,} days" if len(found.days) != 1 else " on one day"
    words = (
        f"{found.attempt_count:,} attempts{days if found.days else ''}: "
        f"{found.allowed_count:,} allowed, {found.denied_count:,} denied"
    )
    if found.attempt_count:
        words += f" ({found.denied_count / found.attempt_count:.1%})"
    words += "."
    if found.not_evaluated_count:
        words += (
            f"\n{found.not_evaluated_count:,} attempts lacked a field that a limit needs, and were "
            "tried without that limit; a server refuses them."
        )
    if found.HasField("counted_since_time"):
        since = found.counted_since_time.ToJsonString()
        words += f"\nHistory is recorded from {since} on, so counts may be too low at first."
    return words


def _limits(
    found: simulation_pb2.SimulatePolicyResponse, policies: Sequence[policy_pb2.Policy]
) -> Table:
    rows_of: dict[tuple[str, str], list[simulation_pb2.SimulationRow]] = {}
    for row in found.rows:
        rows_of.setdefault((row.policy.rpartition("/")[2], row.limit_id), []).append(row)
    table = _table("limit", "rule", "did not fit", "denied by it", "accounts", "days", text=2)
    for policy in policies:
        for limit in policy.limits:
            rows = rows_of.get((policy.name.rpartition("/")[2] or "draft", limit.limit_id), [])
            table.add_row(
                Text(limit.limit_id),
                Text(limit_in_words(limit)),
                f"{sum(row.denied_count for row in rows):,}",
                f"{sum(row.binding_count for row in rows):,}",
                f"{len({row.account for row in rows}):,}",
                f"{len({row.day for row in rows}):,}",
            )
    return table


def _accounts(found: simulation_pb2.SimulatePolicyResponse) -> RenderableType:
    denied: Counter[str] = Counter()
    by_day: Counter[tuple[str, str]] = Counter()
    by_limit: Counter[tuple[str, str]] = Counter()
    for row in found.rows:
        denied[row.account] += row.binding_count
        by_day[row.account, row.day] += row.binding_count
        by_limit[row.account, row.limit_id] += row.binding_count
    worst: dict[str, tuple[int, str]] = {}
    for (account, day), count in by_day.items():
        if count:
            # The earlier of equal days.
            worst[account] = max(
                worst.get(account, (0, "")), (count, day), key=lambda each: each[0]
            )
    limits: dict[str, tuple[int, str]] = {}
    for (account, limit_id), count in by_limit.items():
        if count:
            limits[account] = max(
                limits.get(account, (0, "")), (count, limit_id), key=lambda each: each[0]
            )
    shown = sorted(
        ((account, count) for account, count in denied.items() if count),
        key=lambda item: (-item[1], item[0]),
    )
    table = _table("account", "mostly by", "denied", "worst day", "denied then", text=2)
    for account, count in shown[:_BUSIEST_COUNT]:
        most, day = worst[account]
        table.add_row(Text(account), Text(limits[account][1]), f"{count:,}", day, f"{most:,}")
    return _with_rest(table, len(shown) - _BUSIEST_COUNT, "account")


def _days(found: simulation_pb2.SimulatePolicyResponse) -> RenderableType:
    shown = sorted(
        (day for day in found.days if day.denied_count),
        key=lambda day: (-day.denied_count, day.day),
    )
    table = _table("day", "attempts", "denied", "share", text=1)
    for day in sorted(shown[:_WORST_DAY_COUNT], key=lambda day: day.day):
        share = f"{day.denied_count / day.attempt_count:.1%}"
        table.add_row(day.day, f"{day.attempt_count:,}", f"{day.denied_count:,}", share)
    return _with_rest(table, len(shown) - _WORST_DAY_COUNT, "day")


def _table(*columns: str, text: int) -> Table:
    """A table whose first columns are text, and the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < text else "right", overflow="fold")
    return table


def _with_rest(table: Table, rest_count: int, what: str) -> RenderableType:
    if rest_count <= 0:
        return Group("", table)
    words = f"and {rest_count:,} {what}{'s' if rest_count > 1 else ''} with fewer denials"
    return Group("", table, Text(words, "dim"))


def draw(found: simulation_pb2.SimulatePolicyResponse, path: Path) -> None:
    """Attempts by day, allowed and denied, above what each limit did not let pass."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure = plots.figure(height_inches=6.0)
    figure.suptitle(_totals(found).splitlines()[0], fontsize=9)
    tried, limits = figure.subplots(2, 1, sharex=True)
    days = _all_days(found)
    by_day = {day.day: day for day in found.days}
    attempts = [by_day[day].attempt_count if day in by_day else 0 for day in days]
    denied = [by_day[day].denied_count if day in by_day else 0 for day in days]
    allowed = [every - some for every, some in zip(attempts, denied, strict=True)]
    dates = [date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal() for day in days]
    tried.bar(dates, allowed, width=1.0, label="allowed", color="tab:green")
    tried.bar(dates, denied, width=1.0, bottom=allowed, label="denied", color="tab:red")
    tried.set_ylabel("attempts a day")
    tried.legend(fontsize=8)
    for name, counts in _by_limit(found).items():
        limits.plot(dates, [counts[day] for day in days], label=name, linewidth=1.2)
    limits.set_ylabel("did not fit, a day")
    if found.rows:
        limits.legend(fontsize=8)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    limits.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    limits.xaxis.set_major_formatter(formatter)
    for axes in (tried, limits):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:,.0f}")
    plots.save(figure, path)


def _all_days(found: simulation_pb2.SimulatePolicyResponse) -> list[str]:
    """Every day from the first one to the last, also those without attempts."""
    if not found.days:
        return []
    first, last = (date.fromisoformat(found.days[end].day) for end in (0, -1))
    return [
        (first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)
    ]


def _by_limit(found: simulation_pb2.SimulatePolicyResponse) -> dict[str, Counter[str]]:
    """By limit and day, what did not fit."""
    counts: dict[str, Counter[str]] = {}
    for row in found.rows:
        shadow = row.enforcement == policy_pb2.ENFORCEMENT_SHADOW
        name = f"{row.limit_id} (shadow)" if shadow else row.limit_id
        counts.setdefault(name, Counter())[row.day] += row.denied_count
    return counts
