"""Nobody without a key or token makes the region wait, grow or stop: a real region, and strangers at its door."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from yarl import URL

from region.database.connection import transaction
from shared.signing import encode_bytes, public_bytes
from shared.wire.report import Knows, Report
from tests.http.conftest import Running
from tests.http.test_racks_api import Rack

Eventually = Callable[..., Awaitable[object]]
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} /api/v1{path} HTTP/1.1", "Host: region", *lines, "", ""]).encode()


async def connect(running: Running) -> Line:
    url = URL(running.client.base)
    assert url.host
    return await asyncio.open_connection(url.host, url.port)


@asynccontextmanager
async def lines(running: Running, count: int, sent: bytes) -> AsyncIterator[list[Line]]:
    """So many connections on which this was sent, and nothing after it."""
    opened = [await connect(running) for _ in range(count)]
    try:
        for _, writer in opened:
            writer.write(sent)
        await asyncio.sleep(0.3)
        yield opened
    finally:
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def answered(line: Line, sent: bytes = b"", within_s: float = 5.0) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the answer to what was sent on this line."""
    reader, writer = line
    writer.write(sent)
    raw = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), within_s)).decode()
    status, *rest = raw.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
    body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", 0))), within_s)
    return int(status.split()[1]), headers, json.loads(body) if "json" in headers.get("content-type", "") else body


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(head("POST", "/racks/enrol", "Content-Length: 1000") + b"{", id="an enrolment's body"),
        pytest.param(head("POST", "/session", "Content-Length: 1000") + b"{", id="a log-in's body"),
        pytest.param(head("PUT", "/selections", "Content-Length: 1000") + b"{", id="a body that nobody may send"),
        pytest.param(head("GET", "/images")[:-2], id="a head"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_half_a_request_from_anyone_stops_nobody(running: Running, half: bytes) -> None:
    """Twenty of these answered every operator 503: each held a connection to the database until its body was whole."""
    async with lines(running, 200, half):
        for method, path in (("GET", "/images"), ("GET", "/readyz"), ("POST", "/imports")):
            started = time.monotonic()
            assert (await running.client(method, path)).status in (200, 202), path
            assert time.monotonic() - started < 2
        wrong = await running.as_nobody()("POST", "/session", json={"token": "bf_no"})
        assert wrong.status == 401, "a newcomer is answered, though the house is full of those who say nothing"


NOBODYS = {
    "not JSON": ("POST", "/selections", b"{"),
    "not a field": ("PATCH", "/sync", b'{"nonsense": 1}'),
    "for an address there is not": ("POST", "/nothing", b"{"),
    "for a method there is not": ("POST", "/images", b"{"),
    "a report": ("PUT", f"/racks/{'0' * 32}/report", b"{"),
}


CREDENTIALS = {
    "nobody": {},
    "a token of nobody": {"Authorization": f"Bearer bf_{'0' * 12}_{'x' * 43}"},
    "a session of nobody": {"Cookie": "bf_session=nobody", "Sec-Fetch-Site": "same-origin"},
    "a rack of nobody": {
        "Signature": f"rack=:{'A' * 86}==:",
        "Signature-Input": 'rack=("@method" "@path" "@query");created=1;keyid="0";tag="bootferry-rack"',
    },
}


async def test_a_body_of_somebody_unknown_is_refused_unread(running: Running) -> None:
    for case, (method, path, body) in NOBODYS.items():
        for who, credentials in CREDENTIALS.items():
            headers = credentials | {"Content-Type": "application/json"}
            whole = await running.as_nobody()(method, path, data=body, headers=headers)
            assert whole.status == 401, (case, who, whole.body)
            # Nor is it waited for.
            sent = [f"{name}: {value}" for name, value in credentials.items()]
            line = await connect(running)
            status, _, _ = await answered(line, head(method, path, "Content-Length: 50000", *sent), 2)
            assert status == 401, (case, who)
            line[1].close()


async def test_what_strangers_are_refused_fills_no_log(running: Running) -> None:
    with structlog.testing.capture_logs() as logged:
        await running.as_nobody()("POST", "/selections", data=b"{")
        await running.as_nobody()("POST", "/racks/enrol", data=b"{")
        await running.client("POST", "/selections", data=b"{")
        await running.client("POST", "/imports")
    told = [line["event"] for line in logged if line["log_level"] != "debug" and "was answered" in line["event"]]
    assert told == ["POST /api/v1/selections was answered 422.", "POST /api/v1/imports was answered 202."]


CAPS = {
    "what an operator sends": ("POST", "/selections", 64 * 1024),
    "an enrolment": ("POST", "/racks/enrol", 16 * 1024),
    "a log-in": ("POST", "/session", 4 * 1024),
}


@pytest.mark.parametrize(("method", "path", "cap"), CAPS.values(), ids=CAPS)
@pytest.mark.parametrize("chunked", [False, True], ids=["its length told", "in chunks"])
async def test_a_body_has_a_limit_by_its_address(
    running: Running, method: str, path: str, cap: int, chunked: bool
) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        yield b" " * count

    for count, refused in ((cap, False), (cap + 1, True)):
        data = chunks(count) if chunked else b" " * count
        answer = await running.client(method, path, data=data, headers={"Content-Type": "application/json"})
        assert (answer.status == 413) == refused, (count, answer.body)
        if refused:
            assert answer.json["code"] == "body_too_large"


async def test_a_length_that_is_too_large_is_refused_unread(running: Running) -> None:
    line = await connect(running)
    status, _, problem = await answered(line, head("POST", "/racks/enrol", "Content-Length: 16385"), 2)
    assert (status, problem["code"]) == (413, "body_too_large")
    line[1].close()


async def test_a_report_may_be_larger_and_only_its_own_rack_is_asked_for_it(
    running: Running, eventually: Eventually
) -> None:
    rack = Rack(running, 1)
    await rack.enrol()
    await eventually(lambda: running.region.rack_keys.get(rack.id))
    body = Report(sequence=time.time_ns() // 1_000_000, version="9", knows=Knows(), bytes_free=1).encode()
    body += b" " * (1024 * 1024 - len(body))
    path = f"/racks/{rack.id}/report"
    assert (await rack.ask("PUT", path, body)).status == 204
    signed = rack.signed("PUT", path, body)
    other = await running.as_nobody()("PUT", path, headers=signed, data=body[:-1] + b"\n")
    assert (other.status, other.json["code"]) == (401, "request_signature_invalid"), "the body was changed on its way"
    # With a signature that is not good, not one byte of eight megabytes is waited for.
    signed["Signature"] = f"rack=:{'A' * 86}==:"
    line = await connect(running)
    sent = [f"{name}: {value}" for name, value in signed.items()]
    status, _, _ = await answered(line, head("PUT", path, f"Content-Length: {8 * 1024 * 1024}", *sent), 2)
    assert status == 401
    line[1].close()
    too_large = rack.signed("PUT", path, b"x")
    line = await connect(running)
    sent = [f"{name}: {value}" for name, value in too_large.items()]
    status, _, _ = await answered(line, head("PUT", path, f"Content-Length: {8 * 1024 * 1024 + 1}", *sent), 2)
    assert status == 413
    line[1].close()


async def test_a_thousand_racks_behind_one_address_are_no_strangers(running: Running) -> None:
    racks = [Rack(running, number) for number in range(1000)]
    async with transaction(running.region.engine) as connection:
        await connection.execute(
            text("INSERT INTO racks (id, name, public_key, enrolled_at) VALUES (:id, :id, :key, now())"),
            [{"id": rack.id, "key": encode_bytes(public_bytes(rack.key))} for rack in racks],
        )
    await running.region.rack_keys.read_all()

    async def poll(rack: Rack) -> Line:
        line = await connect(running)
        signed = rack.signed("GET", "/manifest", None)
        sent = head("GET", "/manifest", *(f"{name}: {value}" for name, value in signed.items()))
        status, _, _ = await answered(line, sent, 60)
        assert status == 200
        return line

    begun = await asyncio.gather(*map(poll, racks))
    assert begun[0][1].get_extra_info("socket")
    figures = (await running.client("GET", "/metrics")).body.decode()
    assert "bootferry_strangers 0.0" in figures
    assert "bootferry_strangers_refused_total{" not in figures
    # They stay, however many strangers come.
    async with lines(running, 100, b""):
        assert not begun[0][0].at_eof()
        figures = (await running.client("GET", "/metrics")).body.decode()
        assert "bootferry_strangers 100.0" in figures
    for _, writer in begun:
        writer.close()


async def test_who_reads_the_figures(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = running.as_nobody()
    assert (await nobody("GET", "/metrics")).status == 401
    made = await running.client("POST", "/operator-tokens", json={"name": "prometheus", "role": "viewer"})
    bearer = {"Authorization": f"Bearer {made.json['token']}"}
    assert (await nobody("GET", "/metrics", headers=bearer)).status == 200
    named = running.region.configuration.model_validate(
        running.region.configuration.model_dump() | {"metrics_addresses": "10.0.0.7, 10.1.0.0/16"}
    )
    monkeypatch.setattr(running.region, "configuration", named)
    assert (await nobody("GET", "/metrics")).status == 401
    for address, status in {"10.0.0.7": 200, "10.1.2.3": 200, "10.0.0.8": 401, "::ffff:10.0.0.7": 200}.items():
        answer = await nobody("GET", "/metrics", headers={"X-Forwarded-For": address})
        assert answer.status == status, address
