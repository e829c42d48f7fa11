"""The page, the alert rules and the dashboard name metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eventstore.metrics.families import FAMILIES

DOCS = Path(__file__).parent.parent.parent / "docs"
ROW = re.compile(r"^\| `(eventstore_\w+)` \| (\w+) \| (.*?) \| (.+) \|$", re.MULTILINE)
EXPRESSION = re.compile(r"^        expr: (.+)$", re.MULTILINE)
OF_PROMETHEUS = {"job", "schema", "instance", "le", "quantile"}

NAME = re.compile(r"\beventstore_\w+")
MATCHERS = re.compile(r"(\beventstore_\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)(?:=~|!~|!=|=)")


def family(name: str) -> str:
    """Return the name of the family that a series belongs to."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if base in FAMILIES and FAMILIES[base].kind == "histogram" else name


def wrong(expression: str) -> list[str]:
    """What an expression asks for in vain: metrics that do not exist, and labels that they do not have."""
    found = [name for name in NAME.findall(expression) if family(name) not in FAMILIES]
    for name, matchers in MATCHERS.findall(expression):
        has = {*FAMILIES[family(name)].labels, *OF_PROMETHEUS} if family(name) in FAMILIES else set()
        found += [f"{name}{{{label}}}" for label in LABEL.findall(re.sub(r'"[^"]*"', "", matchers)) if label not in has]
    return found


def rules() -> list[str]:
    return EXPRESSION.findall((DOCS / "alerts.yml").read_text())


def panels() -> list[dict[str, Any]]:
    return [one for one in json.loads((DOCS / "grafana.json").read_text())["panels"] if one["type"] != "row"]


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    rows = ROW.findall((DOCS / "metrics.md").read_text())
    described = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    assert described == {name: (one.kind, one.labels) for name, one in FAMILIES.items()}
    assert len(rows) == len(described)


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, one in FAMILIES.items():
        assert re.fullmatch(r"eventstore_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (one.kind == "counter")
        assert one.kind != "histogram" or name.endswith("_seconds")
        assert len(one.labels) <= 2


@pytest.mark.parametrize("expression", rules())
def test_alert_rules_ask_for_what_exists(expression: str) -> None:
    assert NAME.search(expression)
    assert wrong(expression) == []


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    alerts = (DOCS / "alerts.yml").read_text().split("- alert: ")[1:]
    assert len(alerts) == len(rules()) == len({alert.split("\n")[0] for alert in alerts})
    for alert in alerts:
        assert re.search(r"severity: (critical|warning)", alert)
        assert all(f"          {key}: " in alert for key in ("summary", "description"))


def test_databases_with_the_same_schema_do_not_hide_each_other() -> None:
    grouped = [one for rule in rules() for one in re.findall(r"\b(?:by|on) \(([^)]+)\)", rule)]
    assert len(grouped) > 10
    assert [one for one in grouped if "job" not in one.split(", ")] == []
    board = json.loads((DOCS / "grafana.json").read_text())
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [one["definition"] for one in board["templating"]["list"] if one["name"] not in ("datasource", "job")]
    matchers = [found for one in asked for _, found in MATCHERS.findall(one)]
    assert len(matchers) >= len(asked)
    assert [one for one in matchers if 'job="$job"' not in one] == []


def test_an_alert_fires_when_nothing_is_left_to_tell() -> None:
    (silent,) = [rule for rule in rules() if "absent(eventstore_up)" in rule]
    assert "unless group by (job, schema) (eventstore_up)" in silent


def test_panels_of_the_dashboard_ask_for_what_exists() -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert len(expressions) > 30
    assert [problem for one in expressions for problem in wrong(one)] == []


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = json.loads((DOCS / "grafana.json").read_text())
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "schema", "node", "subscription"]
    assert [wrong(one.get("definition", "")) for one in variables.values()] == [[]] * 5
    assert {json.dumps(panel["datasource"]) for panel in panels()} == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert len({one["id"] for one in board["panels"]}) == len(board["panels"])
    assert all(one["gridPos"]["x"] + one["gridPos"]["w"] <= 24 for one in board["panels"])


@pytest.mark.parametrize(
    "expression",
    ["eventstore_lag > 1", "eventstore_appends", 'eventstore_up{node="a"}', "eventstore_up_bucket"],
)
def test_what_does_not_exist_is_caught(expression: str) -> None:
    assert wrong(expression)
