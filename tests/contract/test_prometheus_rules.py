"""The shipped alerting rules ask for what the gateway shows: its metrics, their labels, and the alerts it raises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.metrics import Metrics
from tests.harness import ROOT

RULES = ROOT / "config" / "prometheus-rules.yml"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
FUNCTIONS = {"histogram_quantile", "increase", "max", "min", "rate", "sum", "time"}
WORDS = {"and", "by", "or", "unless", "offset"}
BY_ALL_TARGETS = {"instance", "job", "le"}
"""Labels that Prometheus itself adds, and the histograms'."""


@dataclass(frozen=True)
class Selector:
    metric: str
    matchers: str

    @property
    def labels(self) -> dict[str, str]:
        return dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', self.matchers))


def groups() -> list[Any]:
    return list(yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"])


def rules() -> list[Any]:
    return [rule for group in groups() for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]


def name_of(rule: Mapping[str, str]) -> str:
    return rule.get("alert") or rule["record"]


def selectors(expr: str) -> Iterator[Selector]:
    """Every metric an expression names. What is grouped by, functions, words and durations are none."""
    plain = re.sub(r"\b(by|without)\s*\([^)]*\)|\[\w+\]|\boffset\s+\w+", " ", expr)
    for name, matchers in re.findall(r'([A-Za-z_:][\w:]*)\s*(\{(?:[^}"]|"[^"]*")*\})?', plain):
        if name not in FUNCTIONS | WORDS:
            yield Selector(name, matchers)


def shown() -> dict[str, set[str]]:
    """The series the gateway shows, with the labels of each."""
    found: dict[str, set[str]] = {}
    metrics = Metrics()
    for one in vars(metrics).values():
        if not hasattr(one, "describe"):
            continue
        labels = set(one._labelnames)
        (family,) = one.describe()
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found.update({family.name + end: labels for end in ends})
    return found


SHOWN = shown()
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def raised() -> set[str]:
    """Alerts that the source raises by name."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(Path(ROOT, "gateway").glob("*.py")))
    return set(re.findall(r'alerts\.(?:show|replace)\(\s*"([a-z_]+)"', text)) | {"payment_unbooked", "payment_reversed"}


def test_every_metric_is_found_in_the_text_that_is_scraped() -> None:
    text = Metrics().render().decode()
    assert {name for name in SHOWN if re.sub(r"_(bucket|sum|count)$", "", name) not in text} == set()


@pytest.mark.parametrize("rule", rules(), ids=name_of)
def test_a_rule_asks_for_series_and_labels_that_exist(rule: Mapping[str, Any]) -> None:
    asked = list(selectors(rule["expr"]))
    assert asked
    for one in asked:
        assert one.metric in SHOWN.keys() | RECORDED, f"nothing shows {one.metric}"
        assert set(one.labels) <= SHOWN.get(one.metric, set()) | BY_ALL_TARGETS
    grouped = {label.strip() for found in re.findall(r"\bby\s*\(([^)]*)\)", rule["expr"]) for label in found.split(",")}
    assert grouped <= BY_ALL_TARGETS.union(*(SHOWN.get(one.metric, set()) for one in asked))


@pytest.mark.parametrize("rule", rules(), ids=name_of)
def test_a_rule_has_the_form_prometheus_reads(rule: Mapping[str, Any]) -> None:
    assert set(rule) <= {"alert", "record", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    for opening, closing in ("()", "{}", "[]"):
        assert rule["expr"].count(opening) == rule["expr"].count(closing)
    functions = set(re.findall(r"\b([a-z_]+)\(", rule["expr"]))
    assert functions <= FUNCTIONS, "an unknown function"
    if "alert" in rule:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert re.fullmatch(r"Simroute[A-Z][A-Za-z]+", rule["alert"])


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_a_sentence_names_only_labels_that_are_left(rule: Mapping[str, Any]) -> None:
    """What is aggregated away is empty in a sentence."""
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    expr = rule["expr"]
    kept = {label.strip() for found in re.findall(r"\bby\s*\(([^)]*)\)", expr) for label in found.split(",")}
    if not re.search(r"\b(sum|max|min)\b", expr):
        recorded = {"upstream"} if any(one.metric in RECORDED for one in selectors(expr)) else set()
        kept |= {"instance"} | recorded
    assert named <= kept


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_of_the_gateways_own_is_one_it_raises(rule: Mapping[str, Any]) -> None:
    names = [
        name for one in selectors(rule["expr"]) if one.metric == "simroute_alert"
        for name in one.labels.get("alert", "").split("|")
    ]  # fmt: skip
    assert set(names) <= raised()


def test_no_name_stands_twice() -> None:
    names = [name_of(rule) for rule in rules()]
    assert len(set(names)) == len(names)


def test_what_the_last_rule_leaves_out_has_a_rule_of_its_own() -> None:
    """So that every alert there ever is reaches somebody, and none of them twice."""
    (rest,) = [rule for rule in ALERTS if rule["alert"] == "SimrouteAlert"]
    (selector,) = selectors(rest["expr"])
    own = {
        one.labels["alert"] for rule in ALERTS if rule is not rest
        for one in selectors(rule["expr"]) if one.metric == "simroute_alert"
    }  # fmt: skip
    left_out = set(selector.labels["alert"].split("|"))
    assert left_out == own | {"in_doubt_old", "notices_failing"}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_every_metric_is_documented(name: str) -> None:
    assert f"`{re.sub('_(bucket|sum|count)$', '', name)}`" in OPERATIONS


@pytest.mark.parametrize("name", sorted(raised()))
def test_every_alert_is_documented(name: str) -> None:
    assert f"| `{name}` |" in OPERATIONS
