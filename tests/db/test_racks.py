"""Racks: enrolment spends one token for one rack; who was seen when; lists page by page; room."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.fleet import enrolment_tokens, racks
from region.fleet.enrolment_tokens import TOKEN_LIFETIME
from region.fleet.keys import Keys
from region.fleet.racks import Room
from region.fleet.showing import LIVE_FOR
from shared.errors import (
    BadSignature,
    BarredKey,
    BootferryError,
    Conflict,
    InvalidDocument,
    InvalidToken,
    NotFound,
    Refused,
    TokenExpired,
    TokenSpent,
    WrongClock,
    WrongRegion,
)
from shared.names import Name
from shared.signing import encode_bytes, fingerprint, public_bytes
from shared.wire.enrolment import REQUEST_TYPE, Enrolment, EnrolmentRequest, EnrolmentToken
from shared.wire.envelope import seal
from tests.db.rows import NOW, digest, hold, kernel, make_rack, make_region, make_source, publish

REGION = "ab" * 32
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
async def engine(engine: AsyncEngine) -> AsyncEngine:
    """An engine on the database of a region."""
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
    return engine


async def make_token(engine: AsyncEngine, *, uses: int = 1, lifetime: timedelta = TOKEN_LIFETIME) -> EnrolmentToken:
    async with transaction(engine) as connection:
        secret, token = await enrolment_tokens.create_token(connection, REGION, NOW, lifetime=lifetime, uses=uses)
    assert token.expires_at == NOW + lifetime
    return secret


def asking(name: str = "rack-1", key: Ed25519PrivateKey | None = None, region: str = REGION) -> EnrolmentRequest:
    key = key or Ed25519PrivateKey.generate()
    return EnrolmentRequest(Name(name), encode_bytes(public_bytes(key)), region)


async def enrolled(
    engine: AsyncEngine, token: EnrolmentToken, request: EnrolmentRequest | None = None, after: timedelta = timedelta(0)
) -> Enrolment:
    async with transaction(engine) as connection:
        return await racks.enrol(connection, (request or asking()).sealed(token), REGION, NOW + after)


async def names(engine: AsyncEngine) -> list[str]:
    async with transaction(engine) as connection:
        return [rack.name for rack in await racks.list_page(connection, NOW)]


async def test_a_rack_is_known_from_its_enrolment_on(engine: AsyncEngine) -> None:
    token = await make_token(engine)
    assert EnrolmentToken.parse(str(token)) == token
    key = Ed25519PrivateKey.generate()
    request = asking(key=key)
    answer = await enrolled(engine, token, request)
    assert (answer.name, answer.public_key) == (request.name, request.public_key)
    keys = Keys(engine)
    await keys.read_all()
    known = keys.get(answer.rack_id)
    assert known is not None
    assert public_bytes(known) == public_bytes(key)
    async with transaction(engine) as connection:
        rack = await racks.get(connection, answer.rack_id, NOW)
        assert (rack.name, rack.fingerprint, rack.enrolled_at) == ("rack-1", fingerprint(key), NOW)
        assert (rack.last_seen_at, rack.live, rack.serial) == (None, False, 0)


async def test_the_secret_is_nowhere_in_the_database(engine: AsyncEngine) -> None:
    token = await make_token(engine)
    async with transaction(engine) as connection:
        row = str((await connection.execute(text("SELECT * FROM enrolment_tokens"))).one())
    assert encode_bytes(token.secret) not in row
    assert token.secret.hex() not in row


async def test_a_token_is_spent_by_one_of_many_at_once(engine: AsyncEngine) -> None:
    token = await make_token(engine)
    results = await asyncio.gather(
        *(enrolled(engine, token, asking(f"rack-{n}")) for n in range(6)), return_exceptions=True
    )
    (won,) = [result for result in results if isinstance(result, Enrolment)]
    assert [type(result) for result in results if result is not won] == [TokenSpent] * 5
    assert await names(engine) == [won.name]


async def test_a_token_for_several_racks(engine: AsyncEngine) -> None:
    token = await make_token(engine, uses=2)
    for name in ("a", "b"):
        await enrolled(engine, token, asking(name))
    with pytest.raises(TokenSpent):
        await enrolled(engine, token, asking("c"))
    assert await names(engine) == ["a", "b"]


async def test_a_token_expires(engine: AsyncEngine) -> None:
    token = await make_token(engine)
    with pytest.raises(TokenExpired):
        await enrolled(engine, token, after=TOKEN_LIFETIME)
    assert await enrolled(engine, token, after=TOKEN_LIFETIME - timedelta(seconds=1))


async def test_a_token_of_another_region(engine: AsyncEngine) -> None:
    token = await make_token(engine)
    with pytest.raises(WrongRegion):
        await enrolled(engine, token, asking(region="cd" * 32))
    assert await enrolled(engine, token), "the token is not spent by that"


@pytest.mark.parametrize("taken", ["name", "key"])
async def test_what_another_rack_has_does_not_spend_the_token(engine: AsyncEngine, taken: str) -> None:
    key = Ed25519PrivateKey.generate()
    await enrolled(engine, await make_token(engine), asking("rack-1", key))
    token = await make_token(engine)
    with pytest.raises(Conflict, match="choose another name"):
        await enrolled(engine, token, asking("rack-1") if taken == "name" else asking("rack-2", key))
    await enrolled(engine, token, asking("rack-2"))
    assert await names(engine) == ["rack-1", "rack-2"]


async def test_a_removed_rack_does_not_come_back_with_the_key_it_had(engine: AsyncEngine) -> None:
    token, key = await make_token(engine, uses=3), Ed25519PrivateKey.generate()
    request = asking("rack-1", key)
    answer = await enrolled(engine, token, request)
    async with transaction(engine) as connection:
        await racks.remove(connection, answer.rack_id, NOW)
    # The very enrolment of before, sent again by who has kept it, and another one for the same key.
    for again in (request, asking("rack-2", key)):
        with pytest.raises(BarredKey, match="--again"):
            await enrolled(engine, token, again)
    assert await names(engine) == []
    await enrolled(engine, token, asking("rack-1"))
    assert await names(engine) == ["rack-1"], "the name is free, and the token was not spent by those"
    async with transaction(engine) as connection:
        barred = (await connection.execute(text("SELECT public_key, rack_name, barred_at FROM barred_keys"))).one()
    assert tuple(barred) == (request.public_key, "rack-1", NOW)


async def test_an_enrolment_that_waits_for_the_removal_is_refused_too(
    engine: AsyncEngine, eventually: Callable[..., Awaitable[object]]
) -> None:
    token, key = await make_token(engine, uses=2), Ed25519PrivateKey.generate()
    answer = await enrolled(engine, token, asking("rack-1", key))

    async def waits() -> bool:
        async with transaction(engine) as connection:
            return bool(await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    async with transaction(engine) as connection:
        await racks.remove(connection, answer.rack_id, NOW)
        returning = asyncio.create_task(enrolled(engine, token, asking("rack-1", key)))
        await eventually(waits)
    with pytest.raises(BarredKey):
        await returning
    assert await names(engine) == []


@pytest.mark.parametrize(
    ("late", "taken"),
    [
        pytest.param(timedelta(0), True, id="now"),
        pytest.param(timedelta(seconds=300), True, id="five-minutes-late"),
        pytest.param(timedelta(seconds=-300), True, id="five-minutes-early"),
        pytest.param(timedelta(seconds=301), False, id="later"),
        pytest.param(timedelta(seconds=-301), False, id="earlier"),
    ],
)
async def test_an_enrolment_is_of_now(engine: AsyncEngine, late: timedelta, taken: bool) -> None:
    token = await make_token(engine)
    request = replace(asking(), nonce="ab" * 16, created_at=NOW - late)
    if taken:
        assert (await enrolled(engine, token, request)).nonce == "ab" * 16
    else:
        with pytest.raises(WrongClock) as caught:
            await enrolled(engine, token, request)
        assert (caught.value.nonce, caught.value.behind_s) == ("ab" * 16, late.total_seconds())
        assert await enrolled(engine, token), "the token is not spent by that"


async def test_tokens_are_listed_by_id_page_by_page_and_removed(engine: AsyncEngine) -> None:
    made = sorted([fingerprint((await make_token(engine, uses=2)).key()) for _ in range(5)])
    async with transaction(engine) as connection:
        found = await enrolment_tokens.list_page(connection, limit=10)
        assert [token.id for token in found] == made
        assert {(token.created_at, token.expires_at, token.uses_left) for token in found} == {
            (NOW, NOW + timedelta(hours=24), 2)
        }
        assert [token.id for token in await enrolment_tokens.list_page(connection, limit=2, after=made[1])] == made[2:4]
        await enrolment_tokens.remove(connection, made[0])
        with pytest.raises(NotFound):
            await enrolment_tokens.get(connection, made[0])
        assert (await enrolment_tokens.get(connection, made[1])).id == made[1]


def _unknown_to_the_region() -> bytes:
    return asking().sealed(EnrolmentToken(REGION, b"x" * 32))


def _keyid(keyid: object) -> bytes:
    """An envelope that says to be signed by a key of this id."""
    document = json.loads(_unknown_to_the_region())
    document["signatures"][0]["keyid"] = keyid
    return json.dumps(document, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        pytest.param(b"", InvalidDocument, id="nothing"),
        pytest.param(b"\xff\xfe", InvalidDocument, id="no text"),
        pytest.param(b"[" * 100_000, InvalidDocument, id="nested deeply"),
        pytest.param(b'{"signatures": []}', InvalidDocument, id="no signature"),
        pytest.param(_unknown_to_the_region(), InvalidToken, id="a token nobody made"),
        pytest.param(_keyid("x"), InvalidDocument, id="a key id that is none"),
        pytest.param(_keyid({}), InvalidDocument, id="a key id that is no text"),
        pytest.param(_keyid("a\x00b"), Refused, id="a key id with a NUL"),
        pytest.param(_keyid("\ud800"), Refused, id="a key id with half a character"),
    ],
)
async def test_an_envelope_no_rack_sends(engine: AsyncEngine, envelope: bytes, error: type[BootferryError]) -> None:
    with pytest.raises(error):
        async with transaction(engine) as connection:
            await racks.enrol(connection, envelope, REGION, NOW)


@pytest.mark.parametrize(
    ("signer", "payload", "error"),
    [
        pytest.param("other", {}, BadSignature, id="signed by another than the token's key"),
        pytest.param("token", {"name": "../rack"}, InvalidDocument, id="a name that climbs"),
        pytest.param("token", {"public_key": "short"}, InvalidDocument, id="a key that is none"),
        pytest.param("token", {"name": None}, InvalidDocument, id="no name"),
    ],
)
async def test_a_request_that_does_not_hold(
    engine: AsyncEngine, signer: str, payload: dict[str, object], error: type[BootferryError]
) -> None:
    token = await make_token(engine)
    request = asking()
    fields = {"name": request.name, "public_key": request.public_key, "region_fingerprint": REGION, **payload}
    key = token.key() if signer == "token" else Ed25519PrivateKey.generate()
    document = json.loads(seal(key, REQUEST_TYPE, json.dumps(fields).encode()))
    document["signatures"][0]["keyid"] = fingerprint(token.key())
    with pytest.raises(error):
        async with transaction(engine) as connection:
            await racks.enrol(connection, json.dumps(document, separators=(",", ":")).encode(), REGION, NOW)
    assert await names(engine) == []
    assert await enrolled(engine, token), "the token is not spent by that"


async def test_sightings_never_move_back(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        one, two = await make_rack(connection, "one"), await make_rack(connection, "two")
        await racks.seen(connection, {})
        await racks.seen(connection, {one: NOW - timedelta(minutes=1), two: NOW + timedelta(minutes=1), "gone": NOW})
        assert (await racks.get(connection, one, NOW)).last_seen_at == NOW
        assert (await racks.get(connection, two, NOW)).last_seen_at == NOW + timedelta(minutes=1)
        await connection.execute(text("UPDATE racks SET last_seen_at = NULL"))
        await racks.seen(connection, {one: NOW})
        assert (await racks.get(connection, one, NOW)).last_seen_at == NOW


@pytest.mark.parametrize(
    ("unseen_for", "live"),
    [
        pytest.param(timedelta(0), True, id="just seen"),
        pytest.param(LIVE_FOR - timedelta(seconds=1), True, id="almost three polls ago"),
        pytest.param(LIVE_FOR, False, id="three polls ago"),
    ],
)
async def test_a_rack_is_live_for_three_polls(engine: AsyncEngine, unseen_for: timedelta, live: bool) -> None:
    assert timedelta(minutes=15) == LIVE_FOR
    async with transaction(engine) as connection:
        rack_id = await make_rack(connection, "one", unseen_for=unseen_for)
        assert (await racks.get(connection, rack_id, NOW)).live is live


async def test_racks_are_listed_by_name_page_by_page(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        for name in ("d", "b", "a", "c"):
            await make_rack(connection, name)
        everything = [rack.name for rack in await racks.list_page(connection, NOW)]
        assert everything == ["a", "b", "c", "d"]
        assert [rack.name for rack in await racks.list_page(connection, NOW, limit=3)] == ["a", "b", "c"]
        assert [rack.name for rack in await racks.list_page(connection, NOW, limit=3, after="c")] == ["d"]
        assert [entry.name for entry in await racks.on_racks(connection, "x:y:z", NOW, limit=1, after="b")] == ["c"]


async def test_a_removed_rack_is_gone_with_what_it_lacked(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        rack_id = await make_rack(connection, "one", pending=["ubuntu:noble:amd64"])
        await racks.remove(connection, rack_id, NOW)
        assert await connection.scalar(text("SELECT count(*) FROM rack_images")) == 0
        for wish in (racks.remove(connection, rack_id, NOW), racks.get(connection, rack_id, NOW)):
            with pytest.raises(NotFound):
                await wish


async def test_the_tightest_rack_still_pulls_what_is_left_and_then_what_is_new(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        assert await racks.tightest(connection, {}, NOW) is None
        source_id = await make_source(connection, kernel("1", "2"))
        await hold(connection, source_id, "1")
        await publish(connection, KEY)
        for name, free, left, unseen_for in (
            ("roomy", 9000, 0, timedelta(0)),
            ("pulling", 5000, 3000, timedelta(0)),
            ("away", 1, 0, LIVE_FOR),
        ):
            rack_id = await make_rack(connection, name, unseen_for=unseen_for)
            await connection.execute(
                text("UPDATE racks SET bytes_free = :free, bytes_left = :left WHERE id = :id"),
                {"free": free, "left": left, "id": rack_id},
            )
        held, new = digest("noble/amd64/1/squashfs"), digest("noble/amd64/2/squashfs")
        assert await racks.tightest(connection, {held: 1000, new: 500}, NOW) == Room("pulling", 5000, 1500)
