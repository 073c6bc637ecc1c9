"""Alerts, scrape configuration and dashboard: Prometheus takes them, alerts fire when they should and are explained."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.promtool import needs_promtool, promtool

CHECKOUT = Path(__file__).parents[2]
RULES = CHECKOUT / "deploy" / "prometheus" / "alerts.yaml"
CONFIGURATION = CHECKOUT / "deploy" / "prometheus" / "prometheus.yaml"
DASHBOARD = CHECKOUT / "deploy" / "grafana" / "bootferry.json"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]

REGION, RACK = 'job="bootferry-region",instance="r1:5240"', 'job="bootferry-rack",instance="k1:5248"'
READ = f'bootferry_source_last_good_reading_timestamp_seconds{{{REGION},source="s"}}'
LATENCY = "bootferry_http_request_duration_seconds"
# Two hours before its clock begins, which is at 0, and far beyond a day after.
PAST, FUTURE = "-7200", "200000"

# alert: the series it fires on, those it does not, and the hours after which both are looked at.
CASES: dict[str, tuple[dict[str, str], dict[str, str], float]] = {
    "BootferryRegionDown": ({f"up{{{REGION}}}": "0x300"}, {f"up{{{REGION}}}": "1x300", f"up{{{RACK}}}": "0x300"}, 0.2),
    "BootferryDatabaseAway": (
        {f"bootferry_database_up{{{REGION}}}": "0x300"},
        {f"bootferry_database_up{{{REGION}}}": "1x300"},
        0.2,
    ),
    "BootferryRestarts": (
        {f"process_start_time_seconds{{{RACK}}}": "0+1x300"},
        {
            f"process_start_time_seconds{{{RACK}}}": "7 7 8 9 9x300",
            'process_start_time_seconds{job="other"}': "0+1x300",
        },
        0.3,
    ),
    "BootferrySourceFailing": (
        {f'bootferry_source_failing{{{REGION},source="s"}}': "1x300"},
        {f'bootferry_source_failing{{{REGION},source="s"}}': "1x100 0 1x200"},
        3.2,
    ),
    "BootferrySourceUnread": (
        {READ: "-90000x300", "bootferry_sync_interval_seconds": "3600x300"},
        {READ: "-90000x300", "bootferry_sync_interval_seconds": "604800x300"},
        0.3,
    ),
    "BootferrySourceStale": (
        {f'bootferry_source_stale{{{REGION},source="s"}}': "1x300"},
        {f'bootferry_source_stale{{{REGION},source="s"}}': "0x300"},
        1.2,
    ),
    "BootferrySyncLate": (
        {f"bootferry_sync_next_timestamp_seconds{{{REGION}}}": f"{PAST}x300", "bootferry_sync_enabled": "1x300"},
        {f"bootferry_sync_next_timestamp_seconds{{{REGION}}}": f"{PAST}x300", "bootferry_sync_enabled": "0x300"},
        0.2,
    ),
    "BootferrySyncOff": ({"bootferry_sync_enabled": "0x1600"}, {"bootferry_sync_enabled": "0x1300 1 0x300"}, 24.2),
    "BootferryImagesBehind": ({"bootferry_images_behind": "2x300"}, {"bootferry_images_behind": "2x60 0 2x100"}, 2.2),
    "BootferryUnreadableFiles": ({"bootferry_unreadable_files": "1x300"}, {"bootferry_unreadable_files": "0x300"}, 1.2),
    "BootferryRegionDiskFull": (
        {"bootferry_disk_free_bytes": "9x300", "bootferry_disk_size_bytes": "100x300"},
        {"bootferry_disk_free_bytes": "11x300", "bootferry_disk_size_bytes": "100x300"},
        0.5,
    ),
    "BootferryRegionSlow": (
        {f'{LATENCY}_bucket{{{REGION},le="5"}}': "0+60x300", f'{LATENCY}_bucket{{{REGION},le="2.5"}}': "0+50x300"}
        | {f'{LATENCY}_bucket{{{REGION},le="+Inf"}}': "0+60x300"},
        {f'{LATENCY}_bucket{{{REGION},le="0.1"}}': "0+60x300", f'{LATENCY}_bucket{{{REGION},le="+Inf"}}': "0+60x300"},
        0.5,
    ),
    "BootferryRegionErrors": (
        {
            f'{LATENCY}_count{{{REGION},status="5xx"}}': "0+6x300",
            f'{LATENCY}_count{{{REGION},status="2xx"}}': "0+60x300",
        },
        {
            f'{LATENCY}_count{{{REGION},status="5xx"}}': "0+1x300",
            f'{LATENCY}_count{{{REGION},status="2xx"}}': "0+60x300",
        },
        0.5,
    ),
    "BootferryStrangersRefused": (
        {f'bootferry_strangers_refused_total{{{REGION},what="request",limit="burst"}}': "0+90x300"},
        {f'bootferry_strangers_refused_total{{{REGION},what="request",limit="burst"}}': "0+30x300"},
        0.5,
    ),
    "BootferryRegionCertificateEnds": (
        {f"bootferry_tls_certificate_expires_timestamp_seconds{{{REGION}}}": "600000x300"},
        {f"bootferry_tls_certificate_expires_timestamp_seconds{{{REGION}}}": "700000x300"},
        1.2,
    ),
    "BootferryRackCertificateEnds": (
        {f"bootferry_rack_tls_certificate_expires_timestamp_seconds{{{RACK}}}": "600000x300"},
        {f"bootferry_rack_tls_certificate_expires_timestamp_seconds{{{RACK}}}": "700000x300"},
        1.2,
    ),
    "BootferryRackDown": ({f"up{{{RACK}}}": "0x300"}, {f"up{{{RACK}}}": "1x300", f"up{{{REGION}}}": "0x300"}, 0.2),
    "BootferryRackNotPolling": (
        {f"bootferry_rack_last_poll_timestamp_seconds{{{RACK}}}": f"{PAST}x300"},
        {f"bootferry_rack_last_poll_timestamp_seconds{{{RACK}}}": f"{FUTURE}x300"},
        0.2,
    ),
    "BootferryRackEmpty": (
        {f"bootferry_rack_images{{{RACK}}}": "0x300"},
        {f"bootferry_rack_images{{{RACK}}}": "1x300"},
        1,
    ),
    "BootferryRackDiskFull": (
        {f"bootferry_rack_left_bytes{{{RACK}}}": "9x300", f"bootferry_rack_free_bytes{{{RACK}}}": "8x300"},
        {f"bootferry_rack_left_bytes{{{RACK}}}": "9x300", f"bootferry_rack_free_bytes{{{RACK}}}": "9x300"},
        0.5,
    ),
} | {
    alert: (
        {f'bootferry_racks_in_state{{{REGION},state="{state}"}}': "1x300"},
        {
            f'bootferry_racks_in_state{{{REGION},state="{state}"}}': "0x300",
            'bootferry_racks_in_state{state="pulling"}': "1x300",
        },
        hours,
    )
    for alert, state, hours in (
        ("BootferryRacksUnreachable", "unreachable", 0.5),
        ("BootferryRacksAhead", "ahead", 0.5),
        ("BootferryRacksWaiting", "waiting_for_operator", 1.2),
        ("BootferryRacksFailing", "failing", 1),
    )
}


@needs_promtool
def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    promtool("check", "config", str(CONFIGURATION))
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(RULES))


def test_each_alert_has_a_case() -> None:
    assert {rule["alert"] for rule in ALERTS} == CASES.keys()
    assert len(ALERTS) == len(CASES)


@needs_promtool
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = []
    for alert, (firing, calm, hours) in CASES.items():
        for series, count in ((firing, 1), (calm, 0)):
            expected = [{"labels": "{}", "value": count}] if count else []
            asked = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [{"expr": asked, "eval_time": f"{hours * 60:.0f}m", "exp_samples": expected}],
                }
            )
    written = tmp_path / "alerts.test.yaml"
    written.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(written))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith((".", "?", "}}.", "arrives."))
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert anchor == rule["alert"].lower()
    chapters = re.findall(r"^## (\w+)$", (CHECKOUT / page).read_text(), re.MULTILINE)
    assert rule["alert"] in chapters
    assert len(chapters) == len(ALERTS), "a chapter that no alert leads to"


def test_the_runbook_leads_to_chapters_that_exist() -> None:
    runbook = (CHECKOUT / "docs/runbook.md").read_text()
    for page, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", runbook):
        text = (CHECKOUT / "docs" / (page or "runbook.md")).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that show something."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def test_the_dashboard_is_whole() -> None:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in panels():
        assert panel["targets"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@needs_promtool
def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = [
        {"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]
    written = tmp_path / "dashboard.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(written))
