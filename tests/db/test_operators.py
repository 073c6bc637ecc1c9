"""Operators: who holds a token, and what the token lets them do."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.people.operators import Operator, Role, authenticate, create_token
from shared.errors import InvalidToken, TokenExpired
from tests.db.rows import NOW


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
