"""What is deployed beside the server, and the page on operating it, say what the server does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from limiter import bounds, metrics
from tests.repo.files import ROOT

DASHBOARD: Final = ROOT / "deploy/grafana/limiter.json"
RULES: Final = ROOT / "deploy/prometheus/limiter.rules.yaml"
PAGE: Final = ROOT / "docs/OPERATING.md"

KINDS: Final = {each.name: each for each in metrics.DESCRIPTIONS}

# Of the process, by prometheus_client, as far as they are used.
OTHERS: Final = {
    "process_resident_memory_bytes": metrics.Kind.GAUGE,
    "process_cpu_seconds_total": metrics.Kind.COUNTER,
}

FUNCTIONS: Final = {
    "abs", "absent", "count", "histogram_quantile", "increase", "max", "min", "rate", "sum",
}  # fmt: skip
WORDS: Final = {"and", "by", "on"}

# What Prometheus itself, or a query, adds to the labels of a metric.
ADDED_LABELS: Final = {"instance", "le"}

TOKEN: Final = re.compile(
    r"\s*(?:(?P<name>[a-zA-Z_]\w*)|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<range>\[(?:\$__rate_interval|\d+m)\])"
    r"|(?P<labels>\{[^}]*\})|(?P<sign>==|[()/>,]))"
)
MATCHER: Final = re.compile(r'(\w+)(?:=~|=)"([^"]*)"')


def problems_of(expression: str) -> Iterator[str]:
    """What is wrong with an expression in Prometheus' language, as far as names and forms go."""
    position, depth, last = 0, 0, ""
    while position < len(expression.rstrip()):
        token = TOKEN.match(expression, position)
        if token is None:
            yield f"what is {expression[position:]!r}?"
            return
        if name := token["name"]:
            yield from problems_of_name(name, expression[:position], expression[token.end() :])
            last = name
        elif matchers := token["labels"]:
            yield from problems_of_labels(last, matchers)
        depth += {"(": 1, ")": -1}.get(token["sign"] or "", 0)
        if depth < 0:
            yield "a parenthesis too many"
        position = token.end()
    if depth:
        yield "a parenthesis is not closed"


def problems_of_name(name: str, before: str, following: str) -> Iterator[str]:
    """What is wrong with a function, a metric or a label between what stands around it."""
    if name in FUNCTIONS:
        if not re.match(r"\s*(\(|by\b)", following):
            yield f"{name} is applied to nothing"
    elif name.startswith(("limiter_", "process_")):
        yield from problems_of_metric(name, following)
    elif name not in WORDS and not is_label(name, before):
        yield f"what is {name}?"


def problems_of_labels(metric: str, matchers: str) -> Iterator[str]:
    """What is wrong with the labels that a metric is asked by."""
    if re.sub(MATCHER, "", matchers).strip("{}, "):
        yield f"what does {matchers} mean?"
    for label, _value in MATCHER.findall(matchers):
        if label not in labels_of(metric):
            yield f"{metric} has no label {label}"


def problems_of_metric(name: str, following: str) -> Iterator[str]:
    """What is wrong with the use of a metric."""
    base = re.sub(r"_(bucket|count|sum)$", "", name)
    kind = OTHERS.get(name) or (KINDS[name].kind if name in KINDS else None)
    if kind is None and base in KINDS and KINDS[base].kind is metrics.Kind.HISTOGRAM:
        kind = metrics.Kind.COUNTER
    if kind is None or kind is metrics.Kind.HISTOGRAM:
        yield f"there is no {name}"
    has_range = re.match(r"\s*(\{[^}]*\})?\[", following) is not None
    if has_range != (kind is metrics.Kind.COUNTER):
        yield f"{name} is a {kind}: only the growth of counters says anything"


def labels_of(name: str) -> set[str]:
    """The labels that a metric can be asked by."""
    base = name if name in KINDS else re.sub(r"_(bucket|count|sum)$", "", name)
    own = set(KINDS[base].labels) if base in KINDS else set()
    return own | {"instance"}


def is_label(name: str, before: str) -> bool:
    """Whether a name stands in the list of `by (…)`, and is a label of some metric."""
    labels = {label for each in metrics.DESCRIPTIONS for label in each.labels} | ADDED_LABELS
    return name in labels and re.search(r"\b(by|on) \([\w, ]*$", before) is not None


def dashboard_expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_the_dashboard_asks_for_what_there_is(expression: str) -> None:
    assert list(problems_of(expression)) == []
    # Every panel is of the servers that are chosen.
    assert expression.count("$instance") == len(re.findall(r"(?:limiter|process)_\w+", expression))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_the_alerts_ask_for_what_there_is(rule: dict[str, Any]) -> None:
    assert list(problems_of(rule["expr"])) == []
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert f"`{rule['alert']}`" in PAGE.read_text()


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(limiter_nothing_total[5m])", "there is no limiter_nothing_total"),
        ("rate(limiter_journal_append_duration_seconds[5m])", "there is no"),
        ("limiter_errors_total > 1", "only the growth"),
        ("rate(limiter_accounts[5m])", "only the growth"),
        ('limiter_accounts{method="x"}', "no label method"),
        ("sum by (nothing) (limiter_accounts)", "what is nothing"),
        ("sum(limiter_accounts", "not closed"),
        ("limiter_accounts)", "too many"),
        ("sume(limiter_accounts)", "what is sume"),
        ("limiter_accounts !", "what is"),
    ],
)
def test_what_is_wrong_is_found(expression: str, problem: str) -> None:
    assert any(problem in found for found in problems_of(expression))


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(dashboard_expressions())
    assert [
        name for name in KINDS if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)
    ] == []


def test_panels_have_places_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_page_has_every_metric() -> None:
    rows = [
        f"| `{each.name}` | {each.kind.value} | {', '.join(each.labels)} | {each.help} |"
        for each in metrics.DESCRIPTIONS
    ]
    told = [line for line in PAGE.read_text().splitlines() if line.startswith("| `limiter_")]
    assert told == rows


def test_ceilings_in_alerts_are_below_those_of_the_server() -> None:
    (rule,) = [each for each in rules() if each["alert"] == "LimiterRequestIdsNearlyFull"]
    threshold = int(rule["expr"].split(">")[1])
    assert threshold == bounds.REQUEST_IDS_MAX * 9 // 10
