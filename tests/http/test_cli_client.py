"""The command line's way to the region, against one that is busy."""

import random
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from region.cli.client import Answer, Api
from shared.errors import HttpStatus
from shared.http import client_session
from tests.http.raw_server import raw_server, response

GOOD = response(b'{"items": []}')


def busy(retry_after: str, status: str = "503 Service Unavailable", code: str = "crowded") -> bytes:
    problem = b'{"code": "%s", "detail": "Come back."}' % code.encode()
    return response(
        problem, status, Content_Type="application/problem+json", Retry_After=retry_after, Connection="close"
    )


@pytest.fixture
async def slept(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[float]]:
    """How long the client has slept, in no time."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    with monkeypatch.context() as patch:
        patch.setattr("region.cli.client.asyncio.sleep", sleep)
        yield found


async def asked(answers: list[bytes], method: str = "GET") -> tuple[Answer, list[str]]:
    """What the client makes of these answers, one after the other, and the heads of its requests."""
    left = iter(answers)
    async with raw_server(lambda _: next(left)) as (url, heads), client_session() as session:
        base = URL(url).with_path("/")
        api = Api(session, base, "bf_x", rng=random.Random(1))
        return await api.ask(method, "images", body={} if method != "GET" else None), heads


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
async def test_a_busy_region_is_asked_again_when_it_said(
    slept: list[float], capsys: pytest.CaptureFixture[str], method: str
) -> None:
    answer, heads = await asked([busy("12"), busy("7"), GOOD], method)
    assert answer.body == {"items": []}
    assert [head.split()[0] for head in heads] == [method] * 3
    assert slept == [12, 7]
    told = capsys.readouterr()
    assert (told.out, told.err.splitlines()[0]) == ("", "The region is busy; it is asked again in 12 seconds.")


async def test_a_change_that_may_have_been_made_is_not_sent_again(slept: list[float]) -> None:
    away = busy("5", code="unavailable")
    with pytest.raises(HttpStatus):
        await asked([away, GOOD], "POST")
    assert slept == []
    assert (await asked([away, GOOD], "GET"))[0].body == {"items": []}


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([busy("")], id="says-nothing"),
        pytest.param([busy("31")], id="for-longer-than-anybody-waits-for-a-command"),
        pytest.param([busy("5", "429 Too Many Requests")], id="too-many-log-ins"),
        pytest.param([busy("5", "500 Internal Server Error")], id="a-fault"),
        pytest.param([busy("5")] * 4, id="four-times"),
    ],
)
async def test_everything_else_is_told_at_once(slept: list[float], answers: list[bytes]) -> None:
    with pytest.raises(HttpStatus):
        await asked(answers)
    assert slept == [5.0] * (len(answers) - 1)
