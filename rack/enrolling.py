"""Enrolment as somebody types it: where the token comes from, and what is said meanwhile (`rack.identity` does it)."""

import asyncio
import getpass
import random
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from yarl import URL

from rack import identity as identities
from rack.configuration import RackConfiguration
from rack.identity import Identity
from rack.lock import holder
from shared.errors import HttpStatus, InvalidValue
from shared.http import client_session
from shared.names import Name
from shared.patience import Patience
from shared.wire.enrolment import EnrolmentToken

STDIN = "-"
MAX_TOKEN_CHARACTERS = 1024
MAX_BUNDLE_BYTES = 1024 * 1024


async def enrol(region: str, token_file: str, token: str, name: str, ca_bundle: Path | None, *, again: bool) -> None:
    """This rack is known to the region when this returns, and whoever typed it has read so.

    `token` is one that was given as an argument, as in 0.1. Raises InvalidValue, and as `rack.identity.enrol` does.
    """
    configuration = RackConfiguration.load()
    ca_certificates = _read_certificates(ca_bundle) if ca_bundle else ""
    url, called = identities.parse_region_url(region), Name(name or socket.gethostname())
    if token and token != STDIN:
        typer.echo(
            "Every user of this machine sees a token that is an argument. Leave --token away: the token is asked for.",
            err=True,
        )
        parsed = EnrolmentToken.parse(token)
    else:
        parsed = EnrolmentToken.parse(await asyncio.to_thread(_read_token, token or token_file))
    async with client_session(ca_bundle=configuration.ca_bundle, ca_certificates=ca_certificates) as session:
        proxy = URL(configuration.proxy) if configuration.proxy else None
        identity = await _when_asked_back(
            lambda: identities.enrol(
                session,
                configuration.data_dir,
                url,
                parsed,
                called,
                again=again,
                proxy=proxy,
                ca_certificates=ca_certificates,
            )
        )
    typer.echo(f"This rack is enrolled as {identity.name} ({identity.rack_id}) at {identity.region_url}.")
    if (process := holder(configuration.data_dir / "lock")) is not None:
        typer.echo(f"Restart bootferry-rack (process {process}), which still runs with the earlier enrolment.")


async def _when_asked_back(attempt: Callable[[], Awaitable[Identity]]) -> Identity:
    """What `attempt` returns; a region that is busy is asked again when it says. Raises as `attempt` does."""
    patience, failures = Patience(), 0
    while True:
        try:
            return await attempt()
        except HttpStatus as error:
            failures += 1
            wait_s = patience.wait_s(error, failures, random.SystemRandom())
            # What was answered without a word may have been done: a token is used up by it.
            if wait_s is None or not error.retry_after:
                raise
            typer.echo(f"{error} Trying again in {wait_s:.1f} s.", err=True)
        await asyncio.sleep(wait_s)


def _read_certificates(file: Path) -> str:
    """The certificates in a file, in PEM and without what else it holds. Raises InvalidValue."""
    try:
        with file.open("rb") as opened:
            found = x509.load_pem_x509_certificates(opened.read(MAX_BUNDLE_BYTES))
    except OSError as error:
        raise InvalidValue("CA bundle", file, error.strerror or "it is not readable") from error
    except ValueError as error:
        raise InvalidValue("CA bundle", file, "it holds no certificates in PEM form") from error
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)


def _read_token(file: str) -> str:
    """A line of `file`, of standard input, or what somebody types. Raises InvalidValue."""
    if file and file != STDIN:
        try:
            with Path(file).open(encoding="utf-8", errors="replace") as opened:
                return opened.readline(MAX_TOKEN_CHARACTERS)
        except OSError as error:
            raise InvalidValue("token file", file, error.strerror or "it is not readable") from error
    if not file and sys.stdin.isatty():
        # It hides what is typed before it asks: nothing pasted early is shown.
        return getpass.getpass("Enrolment token: ")
    return sys.stdin.readline(MAX_TOKEN_CHARACTERS)
