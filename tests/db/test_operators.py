"""Operators: who holds a token, what the token lets them do, and how they are kept from overwriting each other."""

import asyncio
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.actions import guard, people
from region.database.connection import transaction
from region.people import activity, sessions
from region.people.activity import CONSOLE, Actor
from region.people.operators import (
    Operator,
    Role,
    authenticate,
    create_token,
    id_of,
    list_tokens,
    tell_of_last_administrator,
)
from shared.errors import Conflict, InvalidToken, NotFound, TokenExpired, Unauthenticated
from tests.db.rows import NOW, until_somebody_waits


async def token_of(engine: AsyncEngine, role: Role = Role.OPERATOR, expires_at: datetime | None = None) -> str:
    async with transaction(engine) as connection:
        return await create_token(connection, "Ada", role, NOW, expires_at)


async def operator_of(engine: AsyncEngine, token: str, now: datetime = NOW) -> Operator:
    async with transaction(engine) as connection:
        return await authenticate(connection, token, now)


@pytest.mark.parametrize("role", list(Role))
async def test_a_token_names_its_operator(engine: AsyncEngine, role: Role) -> None:
    token = await token_of(engine, role)
    operator = await operator_of(engine, token)
    assert (operator.name, operator.role) == ("Ada", role)
    assert token.startswith(f"bf_{operator.id}_")
    assert await operator_of(engine, f"  {token}\n") == operator


async def test_the_secret_is_nowhere_in_the_database(engine: AsyncEngine) -> None:
    token = await token_of(engine)
    async with transaction(engine) as connection:
        row = str((await connection.execute(text("SELECT * FROM operator_tokens"))).one())
    assert token.rpartition("_")[2] not in row
    assert token[16:] not in row


async def test_a_token_that_is_not_known_is_refused_whatever_it_looks_like(engine: AsyncEngine) -> None:
    token = await token_of(engine)
    other = await token_of(engine)
    secret = token[16:]
    forged = [
        "",
        "bf_",
        token[:-1],
        f"{token}x",
        token.upper(),
        f"bf_{'0' * 12}_{secret}",
        token[:16] + other[16:],
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        f"{token[:-1]}é",
        f"{token[:-1]}\x00",
        f"bf_{token[3:15]}' OR 1=1 --",
        "x" * 100_000,
    ]
    for wrong in forged:
        with pytest.raises(InvalidToken) as refused:
            await operator_of(engine, wrong)
        assert secret not in str(refused.value)
    assert await operator_of(engine, token)


async def test_a_token_expires(engine: AsyncEngine) -> None:
    token = await token_of(engine, expires_at=NOW + timedelta(days=1))
    assert await operator_of(engine, token, NOW + timedelta(hours=23))
    with pytest.raises(TokenExpired, match="2026-07-24"):
        await operator_of(engine, token, NOW + timedelta(days=1))
    # Who does not know the secret does not learn that the token was ever good.
    with pytest.raises(InvalidToken):
        await operator_of(engine, token[:-1] + ("A" if token[-1] != "A" else "B"), NOW + timedelta(days=1))


async def test_a_use_is_written_down_once_a_minute(engine: AsyncEngine) -> None:
    token = await token_of(engine)
    for after_s, written_s in ((0, 0), (30, 0), (60, 0), (61, 61), (90, 61)):
        await operator_of(engine, token, NOW + timedelta(seconds=after_s))
        async with transaction(engine) as connection:
            used = await connection.scalar(text("SELECT last_used_at FROM operator_tokens"))
        assert used == NOW + timedelta(seconds=written_s)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        pytest.param(Role.VIEWER, {Role.VIEWER}, id="viewer"),
        pytest.param(Role.OPERATOR, {Role.VIEWER, Role.OPERATOR}, id="operator"),
        pytest.param(Role.ADMIN, {Role.VIEWER, Role.OPERATOR, Role.ADMIN}, id="admin"),
    ],
)
def test_each_role_may_what_the_ones_before_it_may(role: Role, may: set[Role]) -> None:
    assert {other for other in Role if role.includes(other)} == may


# --- the last administrator ----------------------------------------------------------------------------------------

ANN = Actor("Ann", "192.0.2.1")


async def admin_token(engine: AsyncEngine, expires_at: datetime | None = None) -> str:
    """The id of an administrator's token."""
    return id_of(await token_of(engine, Role.ADMIN, expires_at))


async def remove(engine: AsyncEngine, token_id: str, now: datetime = NOW) -> None:
    async with transaction(engine) as connection:
        await people.remove_token(connection, ANN, token_id, now)


async def test_an_expired_administrator_does_not_count_as_one(engine: AsyncEngine) -> None:
    soon = NOW + timedelta(days=1)
    expiring, lasting = await admin_token(engine, soon), await admin_token(engine)
    with pytest.raises(Conflict, match="last administrator"):
        await remove(engine, lasting, soon)
    await remove(engine, expiring, soon)
    with pytest.raises(Conflict, match="last administrator"):
        await remove(engine, lasting, soon)
    with pytest.raises(NotFound):
        await remove(engine, expiring, soon)


async def test_of_two_who_remove_each_other_one_stays(engine: AsyncEngine) -> None:
    ids = [await admin_token(engine), await admin_token(engine)]
    async with transaction(engine) as first:
        await people.remove_token(first, ANN, ids[0], NOW)
        second = asyncio.create_task(remove(engine, ids[1]))
        await until_somebody_waits(engine)
    with pytest.raises(Conflict, match="last administrator"):
        await second
    async with transaction(engine) as connection:
        assert [token.id for token in await list_tokens(connection)] == [ids[1]]


async def test_many_who_remove_each_other_do_not_wait_for_ever(engine: AsyncEngine) -> None:
    ids = [await admin_token(engine) for _ in range(6)]
    ended = await asyncio.gather(*(remove(engine, token_id) for token_id in ids), return_exceptions=True)
    assert [error for error in ended if error is not None and not isinstance(error, Conflict)] == []
    async with transaction(engine) as connection:
        assert len(await list_tokens(connection)) == 1


async def told_of(engine: AsyncEngine) -> list[tuple[str, str]]:
    async with transaction(engine) as connection:
        entries = await activity.list_recent(connection, 50, None)
    return [(entry.subject, entry.sentence) for entry in reversed(entries) if entry.action == "token.expiring"]


async def tell(engine: AsyncEngine, now: datetime) -> bool:
    async with transaction(engine) as connection:
        return await tell_of_last_administrator(connection, now) is not None


async def test_that_the_last_administrators_token_expires_is_told_in_time_and_once(engine: AsyncEngine) -> None:
    first, last = [await admin_token(engine, NOW + timedelta(days=days)) for days in (20, 30)]
    assert not await tell(engine, NOW + timedelta(days=15, hours=23))
    assert [await tell(engine, NOW + timedelta(days=16, hours=hour)) for hour in range(3)] == [True] * 3
    [(subject, sentence)] = await told_of(engine)
    assert subject == f"token:{last}" != f"token:{first}"
    assert "expires on 2026-08-22; make another one before" in sentence
    await admin_token(engine)
    assert not await tell(engine, NOW + timedelta(days=29))
    assert len(await told_of(engine)) == 1


async def test_who_removes_the_lasting_token_hears_that_the_other_expires(engine: AsyncEngine) -> None:
    lasting, expiring = await admin_token(engine), await admin_token(engine, NOW + timedelta(days=13))
    assert not await tell(engine, NOW)
    await remove(engine, lasting)
    assert [subject for subject, _ in await told_of(engine)] == [f"token:{expiring}"]


# --- sessions ------------------------------------------------------------------------------------------------------


async def test_a_session_ends_twelve_hours_after_it_was_used_last(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        operator = await operator_of(engine, await token_of(engine))
        secret = await sessions.open_session(connection, operator, NOW)

    async def use(after: timedelta) -> None:
        async with transaction(engine) as connection:
            await sessions.resume_session(connection, secret, NOW + after)

    await use(timedelta(hours=11, minutes=59))
    await use(timedelta(hours=23, minutes=58))
    with pytest.raises(Unauthenticated, match="has ended"):
        await use(timedelta(hours=35, minutes=58))
    with pytest.raises(Unauthenticated, match="has ended"):
        await use(timedelta(days=400))


# --- who changed it last -------------------------------------------------------------------------------------------


async def test_who_changed_a_thing_last_is_one_look_into_an_index(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        assert await activity.last(connection, "settings") is None
        for number in range(3):
            actor = Actor(f"operator {number}", "192.0.2.1")
            await activity.record(connection, actor, NOW, "settings.changed", f"Change {number}.", subject="settings")
            await activity.record(connection, CONSOLE, NOW, "sync.switched", "Switched.", subject="sync")
        found = await activity.last(connection, "settings")
        assert found is not None
        assert (found.who, found.sentence) == ("operator 2", "Change 2.")
        about = await activity.list_recent(connection, 10, None, "sync")
        assert [entry.action for entry in about] == ["sync.switched"] * 3
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = (
            await connection.scalars(
                text("EXPLAIN SELECT * FROM activity WHERE subject = 'settings' ORDER BY id DESC LIMIT 1")
            )
        ).all()
    assert any("ix_activity_subject_id" in line for line in plan), plan
    assert not any("Sort" in line for line in plan), plan


# --- the guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("if_match", "goes_on"),
    [
        pytest.param(None, True, id="nothing expected"),
        pytest.param("{tag}", True, id="this"),
        pytest.param("*", True, id="any"),
        pytest.param('"x", {tag}', True, id="one of several"),
        pytest.param('"x"', False, id="another"),
        pytest.param('"x", "y"', False, id="others"),
        pytest.param("W/{tag}", False, id="a weak one, RFC 9110 13.1.1"),
        pytest.param("", False, id="an empty list"),
        pytest.param("{bare}", False, id="without its quotes"),
    ],
)
def test_what_an_if_match_lets_through(if_match: str | None, goes_on: bool) -> None:
    tag = guard.tag("thing", at=NOW, name="é")
    given = None if if_match is None else if_match.format(tag=tag, bare=tag.strip('"'))
    assert guard.is_unchanged(given, tag) == goes_on


def test_a_tag_follows_from_the_description_alone() -> None:
    assert guard.tag("thing", a=1, b=None) == guard.tag("thing", b=None, a=1)
    tags = {guard.tag("thing", a=1), guard.tag("thing", a=2), guard.tag("thing", a="1"), guard.tag("other", a=1)}
    assert len(tags) == 4
