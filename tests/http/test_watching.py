"""What Prometheus reads of a region and of a rack: by its conventions, and all that alerts and dashboard ask for."""

import json
import re
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import text

from rack import serve
from rack.belief import Belief
from rack.configuration import RackConfiguration
from rack.connections import Runner
from region.configuration import RegionConfiguration
from region.database.connection import transaction
from shared.errors import Unavailable
from shared.tls import Certificate
from shared.wire.report import Fault
from tests.http.client.certificates import Authority
from tests.http.conftest import Running, imported
from tests.http.running_rack import Rack
from tests.http.test_racks_api import Eventually, known
from tests.http.test_racks_api import Rack as Fleet
from tests.promtool import needs_promtool, promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
OURS = re.compile(r"\b((?:bootferry|process)_\w+)")
ENDS = re.compile(r"_(?:bucket|sum|count)$")


async def of_region(running: Running) -> str:
    answer = await running.client("GET", "/metrics")
    assert answer.status == 200
    return answer.body.decode()


async def of_rack(rack: Rack) -> str:
    async with rack.machine.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return await response.text()


def names(exposed: str) -> set[str]:
    """The metrics that are told of, with or without a value just now."""
    return set(re.findall(r"^# TYPE (\w+) ", exposed, re.MULTILINE))


def asked() -> set[str]:
    """The metrics that the alerts and the dashboard read."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    dashboard = json.loads((DEPLOY / "grafana" / "bootferry.json").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return {ENDS.sub("", name) for expression in expressions for name in OURS.findall(expression)}


async def test_all_that_alerts_and_dashboard_ask_for_is_told(running: Running, rack: Rack) -> None:
    told = names(await of_region(running)) | names(await of_rack(rack))
    assert len(asked()) > 30
    assert asked() <= told


@needs_promtool
async def test_promtool_takes_what_a_region_tells(running: Running) -> None:
    await running.client("GET", "/images")
    promtool("check", "metrics", given=await of_region(running))


@needs_promtool
async def test_promtool_takes_what_a_rack_tells(rack: Rack) -> None:
    await rack.poller.poll()
    await rack.boot("nothing")
    promtool("check", "metrics", given=await of_rack(rack))


async def test_every_name_begins_as_ours_or_as_a_process(running: Running, rack: Rack) -> None:
    for name in names(await of_region(running)):
        assert name.startswith(("bootferry_", "process_"))
    for name in names(await of_rack(rack)):
        assert name.startswith(("bootferry_rack_", "process_"))


async def test_a_region_tells_of_sources_sync_bytes_and_itself(running: Running) -> None:
    told = await of_region(running)
    values = {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", told, re.MULTILINE)}
    async with transaction(running.region.engine) as connection:
        read_at, next_at, stored = (
            await connection.execute(
                text("SELECT last_good_at, next_run_at, (SELECT sum(size) FROM files) FROM sources, sync_schedule")
            )
        ).one()
    assert values['bootferry_source_last_good_reading_timestamp_seconds{source="maas.io"}'] == read_at.timestamp()
    assert values["bootferry_sync_next_timestamp_seconds"] == next_at.timestamp()
    assert values['bootferry_source_held_bytes{source="maas.io"}'] == stored == values["bootferry_files_bytes"]
    assert values['bootferry_source_fetched_bytes_total{source="maas.io"}'] == stored
    assert values['bootferry_source_failing{source="maas.io"}'] == 0
    assert values["bootferry_images_behind"] == 0
    assert values['bootferry_images{status="stored"}'] == 1
    assert values["bootferry_database_up"] == 1
    assert 0 < values["bootferry_disk_free_bytes"] < values["bootferry_disk_size_bytes"]
    assert re.search(r'^bootferry_build_info\{python="3\.\d+\.\d+",version="[\d.]+"\} 1\.0$', told, re.MULTILINE)


async def test_a_failing_source_keeps_the_moment_of_its_last_good_reading(running: Running) -> None:
    before = await of_region(running)
    good = re.search(r"bootferry_source_last_good_reading_timestamp_seconds\{.*", before)
    assert good is not None
    (running.mirror.root / "streams/v1/index.sjson").unlink()
    answer = await running.client("POST", "/imports")
    assert answer.status == 202
    await imported(running.client, 2)
    after = await of_region(running)
    assert good[0] in after
    assert 'bootferry_source_failing{source="maas.io"} 1.0' in after
    assert 'bootferry_source_error{code="unsigned",source="maas.io"} 1.0' in after


async def test_who_speaks_tls_tells_when_its_certificate_ends(running: Running, tmp_path: Path) -> None:
    certificate = Certificate(*Authority.create(tmp_path).pair("region.test"))
    ends = certificate.pair.expires_at.timestamp()
    name = "bootferry_tls_certificate_expires_timestamp_seconds"
    assert not re.search(rf"^{name} ", await of_region(running), re.MULTILINE)
    running.region.certificate = certificate
    [value] = re.findall(rf"^{name} (\S+)$", await of_region(running), re.MULTILINE)
    assert float(value) == ends
    app = serve.application(tmp_path, Belief(), lambda: None, certificate=certificate)
    async with TestClient(TestServer(app)) as client:
        told = await (await client.get("/metrics")).text()
    [value] = re.findall(r"^bootferry_rack_tls_certificate_expires_timestamp_seconds (\S+)$", told, re.MULTILINE)
    assert float(value) == ends


async def test_what_is_told_does_not_grow_with_racks(running: Running) -> None:
    await Fleet(running, 1).enrol()
    few = await of_region(running)
    for number in range(2, 12):
        await Fleet(running, number).enrol()
    many = await of_region(running)
    assert 'bootferry_racks_in_state{state="never_seen"} 11.0' in many
    # Enrolments and scrapes were counted meanwhile; nothing else has more series.
    counted = re.compile(r"^bootferry_http_.*\n", re.MULTILINE)
    assert counted.sub("", few).count("\n") == counted.sub("", many).count("\n")


async def test_racks_are_counted_by_the_status_that_operators_see(running: Running, eventually: Eventually) -> None:
    fleet = [Fleet(running, number) for number in range(1, 5)]
    for rack in fleet:
        await rack.enrol()
    await eventually(lambda: all(running.region.rack_keys.get(rack.id) for rack in fleet))
    await fleet[0].report(known(running))
    await fleet[1].report(known(running), error=Fault("disk_failed", "The disk cannot be read."))
    await fleet[2].report(known(running), error=Fault("waits_for_confirmation", "It would take away much."))
    told = await of_region(running)
    counted = dict(re.findall(r'^bootferry_racks_in_state\{state="(\w+)"\} (\d+)\.0$', told, re.MULTILINE))
    shown = Counter(rack["status"] for rack in await running.client.items("/racks"))
    assert shown == {"synced": 1, "failing": 1, "waiting_for_operator": 1, "never_seen": 1}
    assert {status: int(count) for status, count in counted.items() if count != "0"} == shown
    assert "bootferry_racks_live 3.0" in told
    assert "bootferry_racks_least_free_bytes 10.0" in told


async def test_a_route_is_counted_by_its_template(running: Running) -> None:
    before = answers(await of_region(running))
    for number in range(3):
        await running.client("GET", f"/imports/{number + 1}")
        await running.as_nobody()("GET", f"/docs/{number}")
    told = await of_region(running)
    more = answers(told) - before
    assert more['method="GET",route="/imports/{import_id}",status="2xx"'] == 1
    assert more['method="GET",route="/imports/{import_id}",status="4xx"'] == 2
    assert more['method="GET",route="none",status="4xx"'] == 3
    assert "/docs/1" not in told


def answers(told: str) -> Counter[str]:
    """How many answers were counted, by the labels."""
    found = re.findall(r"^bootferry_http_request_duration_seconds_count\{(.*?)\} (\d+)\.0$", told, re.MULTILINE)
    return Counter({labels: int(count) for labels, count in found})


async def test_bytes_count_for_whom_they_were_sent_to(running: Running, eventually: Eventually) -> None:
    fleet = Fleet(running, 1)
    await fleet.enrol()
    await eventually(lambda: running.region.rack_keys.get(fleet.id))
    manifest = await fleet.ask("GET", "/manifest")
    assert len(manifest.body) > 0
    file = next(iter(running.region.memory.published_sizes.items()))
    answer = await fleet.ask("GET", f"/files/{file[0]}")
    assert len(answer.body) == file[1]
    told = await of_region(running)
    sent = float(told.partition('bootferry_http_sent_bytes_total{to="racks"} ')[2].split()[0])
    assert sent == len(manifest.body) + file[1]


async def test_without_a_database_a_process_still_tells_of_itself(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.region.configuration = RegionConfiguration.model_validate(
        running.region.configuration.model_dump() | {"metrics_addresses": "127.0.0.1"}
    )

    def away(*_: object) -> None:
        raise Unavailable("The database does not answer")

    monkeypatch.setattr("region.api.metrics.transaction", away)
    answer = await running.as_nobody()("GET", "/metrics")
    assert answer.status == 200
    told = answer.body.decode()
    assert "bootferry_database_up 0.0" in told
    assert "process_start_time_seconds" in told
    assert "bootferry_racks" not in told


async def test_a_rack_tells_of_itself(rack: Rack) -> None:
    told = await of_rack(rack)
    assert "bootferry_rack_failing 0.0" in told
    assert re.search(r'^bootferry_rack_build_info\{python="3\.\d+\.\d+",version="[\d.]+"\} 1\.0$', told, re.MULTILINE)


@pytest.mark.parametrize(
    ("configured", "status"),
    [
        ({}, 200),
        ({"metrics_addresses": "127.0.0.1"}, 200),
        ({"metrics_addresses": "10.0.0.0/8"}, 403),
        ({"metrics_addresses": "none"}, 403),
    ],
)
async def test_a_rack_tells_those_who_are_named(tmp_path: Path, configured: dict[str, str], status: int) -> None:
    addresses = RackConfiguration.model_validate(configured).metrics_addresses
    runner = Runner(serve.application(tmp_path, Belief(), lambda: None, addresses))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as response:
            assert response.status == status
            assert ("bootferry_rack" in await response.text()) == (status == 200)
    finally:
        await runner.cleanup()
