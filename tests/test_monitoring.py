"""The dashboard and the alert rules of deploy/: their queries are valid, and ask for what there is.

Each expression is parsed by a parser of PromQL; where Prometheus's own `promtool` is installed, it
checks the rules too.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Start
from tests.support import run
from tests.web import python

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
DASHBOARD: Final = DEPLOY / "grafana-dashboard.json"
ALERTS: Final = DEPLOY / "prometheus-alerts.yml"
NAME: Final = re.compile(r"\bstreamer_[a-z_]+")
OF_GRAFANA: Final = {"$__rate_interval": "5m", "$job": "streamer"}
"""What Grafana puts in place of its variables, for example."""


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    of_panels = [target["expr"] for panel in panels() for target in panel["targets"]]
    for variable, value in OF_GRAFANA.items():
        of_panels = [expression.replace(variable, value) for expression in of_panels]
    return [*of_panels, *(rule["expr"] for rule in rules())]


def test_each_query_is_one() -> None:
    assert len(expressions()) > 40
    for expression in expressions():
        promql_parser.parse(expression)
        assert "$" not in expression, "a variable that Grafana does not know"


async def test_each_metric_that_is_asked_for_is_there(start: Start) -> None:
    client = await start(webhooks={"enabled": True, "secrets": ["whsec_" + "QUFB" * 8]})
    await run(client, **python("print(1)"))
    await run(client, language="c", code="int main(void) { return 0; }")
    async with client.get("/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    there = {sample.name for family in families for sample in family.samples}
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert asked - there == set()
    # Each family is shown: a new one has its place in the dashboard.
    shown = {
        name
        for panel in panels()
        for target in panel["targets"]
        for name in NAME.findall(target["expr"])
    }
    assert [
        family.name
        for family in families
        if shown.isdisjoint(sample.name for sample in family.samples)
    ] == []
    labels = {
        (sample.name, label)
        for family in families
        for sample in family.samples
        for label in sample.labels
    }
    for expression in expressions():
        for name, chosen in re.findall(r"(streamer_[a-z_]+)\{([^}]*)\}", expression):
            for label in re.findall(r"([a-z_]+)\s*=", chosen):
                assert label == "job" or (name, label) in labels, expression


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["targets"], panel["title"]
    titles = [panel["title"] for panel in panels()]
    assert len({*titles}) == len(titles)


def test_each_alert_has_a_severity_and_says_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len({*names}) == len(names)
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_prometheus_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is not installed; the queries are checked by another parser all the same"
        )
    subprocess.run([promtool, "check", "rules", "--lint=all", str(ALERTS)], check=True)
