"""Errors of the database tell no values (I7): rows hold sealed passwords, and the hashes of tokens.

Parameters of statements are hidden by the engine (`hide_parameters`). What PostgreSQL quotes of a row it did not take,
the DETAIL of its errors, is cut off here, from every error that a traceback would show.
"""

import re

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine

_DETAIL = re.compile(r"\s*DETAIL:.*", re.DOTALL)


def tell_no_values(engine: AsyncEngine) -> None:
    """After this no error of this engine quotes a row."""
    event.listen(engine.sync_engine, "handle_error", _cut_details)


def _cut_details(context: ExceptionContext) -> None:
    # PostgreSQL's own error, the driver's around it, and SQLAlchemy's around that: a traceback shows all of them.
    for error in (context.original_exception.__cause__, context.original_exception, context.sqlalchemy_exception):
        if error is None:
            continue
        error.args = tuple(_DETAIL.sub("", said) if isinstance(said, str) else said for said in error.args)
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
