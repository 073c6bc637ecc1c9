"""Strangers at a small house: who is let in, who has to go, and how those are answered who ask too much."""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from region.api import problems
from region.edge.admission import Admission, Crowded, Door, Strangers, StrangersLimits
from region.edge.house import House, HouseLimits, Visitor
from region.edge.rates import Rate
from region.edge.server import build_server
from shared.errors import InvalidToken
from shared.networks import address_key, within
from tests.http.conftest import free_port
from tests.http.lines import Line, closed, read_answer, serving

LARGE = b"." * 4 * 1024 * 1024


@dataclass
class Small:
    """A server with an application of a few addresses; `hold` keeps requests waiting inside it."""

    port: int
    house: House
    strangers: Strangers
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    lines: list[Line] = field(default_factory=list)

    async def connect(self, source: str = "127.0.0.1") -> Line:
        line = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
        self.lines.append(line)
        return line

    async def ask(self, line: Line, path: str = "/", *lines: str, method: str = "GET", body: bytes = b"") -> int:
        status, _ = await self.answer(line, path, *lines, method=method, body=body)
        return status

    async def answer(
        self, line: Line, path: str = "/", *lines: str, method: str = "GET", body: bytes = b""
    ) -> tuple[int, bytes]:
        line[1].write("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode() + body)
        return await read_answer(line)


@asynccontextmanager
async def small(
    house: HouseLimits | None = None,
    strangers: StrangersLimits | None = None,
    proxies: tuple[str, ...] = (),
    body_s: float = 20.0,
) -> AsyncIterator[Small]:
    networks = [ipaddress.ip_network(proxy) for proxy in proxies]
    site = Small(free_port(), House(house, networks), Strangers(strangers))

    async def plain(request: Request) -> Response:
        client = request.client.host if request.client else ""
        return PlainTextResponse(f"{client} {request.url.scheme} {len(await request.body())}")

    async def wait(_request: Request) -> Response:
        site.inside += 1
        await site.hold.wait()
        return PlainTextResponse("waited")

    async def large(_request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield LARGE

        return StreamingResponse(pieces())

    async def identify(request: Request) -> object | None:
        token = request.headers.get("authorization")
        if token not in (None, "good"):
            await site.hold.wait()
            raise InvalidToken("no")
        return token

    app = Starlette(
        routes=[Route("/wait", wait), Route("/large", large), Route("/{rest:path}", plain, methods=["GET", "POST"])]
    )
    app.add_middleware(
        Admission,
        door=lambda _method, path: Door(open=not path.startswith("/closed"), body_s=body_s),
        identify=identify,
        vouch=lambda _caller, _body: None,
        refuse=problems.answer,
        strangers=site.strangers,
    )
    server = build_server(app, host="127.0.0.1", port=site.port, shutdown_grace_s=1, house=site.house, proxies=proxies)
    async with serving(server):
        try:
            yield site
        finally:
            site.hold.set()
            for _, writer in site.lines:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()


async def test_the_oldest_silent_connection_goes_and_never_the_newcomer() -> None:
    async with small(HouseLimits(connections=4, of_one_address=4)) as site:
        lines = [await site.connect() for _ in range(4)]
        lines[1][1].write(b"GET / HT")  # half a head is silence
        await asyncio.sleep(0.05)
        newcomer = await site.connect()
        assert await site.ask(newcomer) == 200
        assert await closed(lines[0])
        lines[1][1].write(b"T")  # and so is half a head that grows
        another = await site.connect()
        assert await site.ask(another) == 200
        assert await closed(lines[1])
        assert not await closed(lines[2])
        assert site.house.strangers == 4
        assert site.house.closed == {"connections": 2}


async def test_who_is_being_answered_does_not_go() -> None:
    async with small(HouseLimits(connections=3, of_one_address=3)) as site:
        asking = await site.connect()
        asking[1].write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        lines = [await site.connect() for _ in range(5)]
        await asyncio.sleep(0.05)
        assert await closed(lines[0])
        site.hold.set()
        assert (await read_answer(asking))[0] == 200


async def test_who_is_known_does_not_count_and_does_not_go() -> None:
    async with small(HouseLimits(connections=3, of_one_address=3)) as site:
        known = []
        for _ in range(10):
            known.append(line := await site.connect())
            assert await site.ask(line, "/closed", "Authorization: good") == 200
        assert site.house.strangers == 0
        lines = [await site.connect() for _ in range(6)]
        await asyncio.sleep(0.05)
        assert [await closed(line) for line in lines] == [True] * 3 + [False] * 3
        assert not any([await closed(line) for line in known])


async def test_one_address_cannot_have_the_whole_house() -> None:
    async with small(HouseLimits(connections=6, of_one_address=4)) as site:
        other = await site.connect("127.0.0.2")
        lines = [await site.connect() for _ in range(8)]
        await asyncio.sleep(0.05)
        assert [await closed(line) for line in lines] == [True] * 4 + [False] * 4
        assert not await closed(other), "it is the oldest of all, and from elsewhere"
        assert site.house.closed == {"address": 4}


async def test_heads_that_do_not_end_are_limited_in_bytes() -> None:
    async with small(HouseLimits(held_bytes=64 * 1024)) as site:
        lines = [await site.connect() for _ in range(5)]
        for line in lines:
            line[1].write(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000)
            await asyncio.sleep(0.02)
        assert [await closed(line) for line in lines] == [True] * 2 + [False] * 3
        assert site.house.closed == {"bytes": 2}
        idle = await site.connect()
        assert await site.ask(idle) == 200


async def test_a_proxys_connections_do_not_count_as_one_address_and_its_clients_do() -> None:
    limits = StrangersLimits(under_way=10, under_way_of_one_address=2)
    async with small(HouseLimits(connections=6, of_one_address=1), limits, proxies=("127.0.0.0/8",)) as site:
        lines = [await site.connect() for _ in range(6)]
        await asyncio.sleep(0.05)
        assert not any([await closed(line) for line in lines])
        for number, line in enumerate(lines[:4]):
            line[1].write(f"GET /wait HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.{number // 2}\r\n\r\n".encode())
        await asyncio.sleep(0.05)
        assert await site.ask(lines[4], "/", "X-Forwarded-For: 10.0.0.1") == 503
        assert await site.ask(lines[5], "/", "X-Forwarded-For: 10.0.0.2") == 200


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [
        pytest.param((), b"127.0.0.1 http 0", id="nobody is named"),
        pytest.param(("127.0.0.1",), b"10.0.0.9 https 0", id="an address"),
        pytest.param(("127.0.0.0/30",), b"10.0.0.9 https 0", id="a network"),
        pytest.param(("10.0.0.0/8",), b"127.0.0.1 http 0", id="another network"),
    ],
)
async def test_forwarded_headers_count_from_named_proxies_only(proxies: tuple[str, ...], seen: bytes) -> None:
    async with small(proxies=proxies) as site:
        line = await site.connect()
        _, answer = await site.answer(line, "/", "X-Forwarded-For: 10.0.0.9", "X-Forwarded-Proto: https")
        assert answer.endswith(seen)


HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"


async def test_when_too_many_ask_at_once_one_that_waits_for_its_client_goes() -> None:
    async with small(strangers=StrangersLimits(under_way=3)) as site:
        waiting = [await site.connect() for _ in range(2)]
        for line in waiting:
            line[1].write(HALF_A_BODY)
            await asyncio.sleep(0.02)
        inside = await site.connect()
        inside[1].write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.02)
        assert await site.ask(await site.connect()) == 200
        assert await closed(waiting[0])
        waiting[1][1].write(b"whole!")
        assert (await read_answer(waiting[1]))[0] == 200
        site.hold.set()
        assert (await read_answer(inside))[0] == 200
        assert site.strangers.refused == {"under_way": 1}


async def test_a_client_that_does_not_take_its_answer_waits_for_itself() -> None:
    async with small(strangers=StrangersLimits(under_way=1)) as site:
        slow = await site.connect()
        slow[1].transport.pause_reading()  # type: ignore[attr-defined]
        slow[1].write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.5)
        assert await site.ask(await site.connect()) == 200
        assert site.strangers.refused == {"under_way": 1}
        slow[1].transport.abort()


async def test_when_all_are_being_answered_the_next_is_told_to_come_back(eventually: Callable[..., object]) -> None:
    async with small(strangers=StrangersLimits(under_way=3)) as site:
        lines = [await site.connect() for _ in range(3)]
        for line in lines:
            line[1].write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: site.inside == 3)  # type: ignore[misc]
        told = set()
        for _ in range(20):
            status, answer = await site.answer(await site.connect())
            head, _, body = answer.partition(b"\r\n\r\n")
            problem = json.loads(body)
            assert (status, problem["code"], problem["status"]) == (503, "crowded", 503)
            told.add(int(head.lower().partition(b"retry-after: ")[2].split()[0]))
        assert min(told) >= 5
        assert max(told) <= 10
        assert len(told) > 1, "they must not all come back at once"
        # Who is known is served meanwhile: the first time too, as long as what is presented is not looked at for long.
        assert site.strangers.refused == {"under_way": 20}


async def test_who_was_known_lately_is_served_however_many_strangers_ask() -> None:
    async with small(strangers=StrangersLimits(under_way=2, requests=Rate(4, 0, 3_000, 400))) as site:
        known = await site.connect()
        assert await site.ask(known, "/closed", "Authorization: good") == 200
        lines = [await site.connect() for _ in range(2)]
        for line in lines:
            line[1].write(b"GET /closed HTTP/1.1\r\nHost: x\r\nAuthorization: bad\r\n\r\n")
        await asyncio.sleep(0.05)
        assert await site.ask(await site.connect()) == 503
        for _ in range(10):
            assert await site.ask(known, "/closed", "Authorization: good") == 200
            assert await site.ask(await site.connect(), "/closed", "Authorization: good") == 200


async def test_so_many_requests_of_strangers_in_a_second_and_no_more() -> None:
    limits = StrangersLimits(requests=Rate(8, 0, burst_of_one_address=5, each_second_of_one_address=0))
    async with small(strangers=limits) as site:
        line = await site.connect()
        assert [await site.ask(line) for _ in range(6)] == [200] * 5 + [503]
        other = await site.connect("127.0.0.2")
        assert [await site.ask(other) for _ in range(4)] == [200] * 3 + [503]
        assert await site.ask(line, "/closed", "Authorization: good") == 503, "whoever is not known yet is a stranger"


def test_what_was_spent_comes_back_with_time() -> None:
    now = 1000.0
    strangers = Strangers(StrangersLimits(requests=Rate(2, 1, 2, 1)), lambda: now)
    request = Request({"type": "http", "headers": [], "client": ("10.0.0.1", 1)})

    def ask() -> bool:
        try:
            with strangers.stay(request, None, Door(open=True)):
                return True
        except Crowded:
            return False

    assert [ask() for _ in range(3)] == [True, True, False]
    now += 1
    assert [ask() for _ in range(2)] == [True, False]
    now += 3600
    assert [ask() for _ in range(3)] == [True, True, False]


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with small(body_s=0.3) as site:
        line = await site.connect()
        line[1].write(HALF_A_BODY)
        for _ in range(2):  # not even when it trickles in
            await asyncio.sleep(0.1)
            line[1].write(b".")
        status, answer = await read_answer(line)
        assert status == 408
        assert b'"code":"body_too_slow"' in answer
        assert await closed(line)


async def test_a_client_that_asks_no_more_gets_its_answer() -> None:
    async with small() as site:
        line = await site.connect()
        line[1].write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        line[1].write_eof()
        await asyncio.sleep(0.2)
        site.hold.set()
        status, answer = await read_answer(line)
        assert (status, answer[-6:]) == (200, b"waited")
        assert await closed(line), "there is nothing more to say"
        half = await site.connect()
        half[1].write(HALF_A_BODY)
        half[1].write_eof()
        assert await closed(half), "the rest of its body cannot come"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 2_000 + b"\r\n", id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 33_000 + b"\r\n\r\n", id="bytes of one header"),
        pytest.param(b"GET /?" + b"a&" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="parts of a query"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n.\r\n" * 5_000, id="chunks"
        ),
        pytest.param(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000, id="requests before an answer"),
    ],
)
async def test_many_small_things_in_a_few_bytes_are_refused(sent: bytes) -> None:
    async with small() as site:
        line = await site.connect()
        line[1].write(sent)
        answer = await asyncio.wait_for(line[0].read(), 5)
        assert answer[:12] in (b"HTTP/1.1 400", b"")
        assert await site.ask(await site.connect()) == 200
        assert site.inside <= 1


async def test_a_hundred_headers_and_sixteen_requests_are_fine() -> None:
    async with small() as site:
        line = await site.connect()
        assert await site.ask(line, "/", *(f"a{number}: b" for number in range(98)), "b: " + "b" * 30_000) == 200
        chunks = b"1\r\n.\r\n" * 4_000 + b"0\r\n\r\n"
        assert await site.ask(line, "/", "Transfer-Encoding: chunked", method="POST", body=chunks) == 200
        line[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 17)
        assert [(await read_answer(line))[0] for _ in range(17)] == [200] * 17


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_what_counts_as_one_address(host: str, key: str) -> None:
    assert address_key(host) == key


def test_within() -> None:
    networks = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "2001:db8::/32")]
    assert [within(host, networks) for host in ("10.1.1.1", "::ffff:10.1.1.1", "2001:db8::1", "11.0.0.1", "", "x")] == [
        *[True] * 3,
        *[False] * 3,
    ]


def test_a_house_counts_right_whatever_happens() -> None:
    house = House(HouseLimits(connections=3, of_one_address=2, held_bytes=10))
    gone: list[Visitor] = []
    visitors: list[Visitor] = []
    for number in range(50):
        visitor = house.enter(f"10.0.0.{number % 3}", lambda: None)
        visitors.append(visitor)
        if number % 2:
            visitor.is_busy()
            visitor.is_silent()
        visitor.holds(number % 7)
        if number % 5 == 0:
            visitor.is_known()
            gone.append(visitor)
        assert house.strangers <= 3
        assert house._held_bytes == sum(one.held_bytes for one in visitors if one.counted) <= 10
    for visitor in visitors:
        house.leave(visitor)
        house.leave(visitor)
    assert (house.strangers, house._held_bytes, len(house._silent), len(house._silent_at), len(house._holding)) == (
        *[0] * 5,
    )
