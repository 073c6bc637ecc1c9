"""`login`, `logout`, `whoami`, `profiles`, `profile use`: which region, and how it knows whoever types."""

import getpass
import ipaddress
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from region.cli import output, profile, words
from region.cli.exits import Misused
from region.cli.lists import Listing, lists
from region.cli.output import Cell, Column, Format
from region.cli.profile import Profile
from region.cli.session import Output, call, speak
from shared.errors import InvalidConfiguration, InvalidValue, Unauthenticated

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]

MAX_TOKEN_BYTES = 4096


def login(
    url: Annotated[str, typer.Argument(metavar="URL", help="The region's address, such as http://region:5240.")],
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="Read the token from a file; - is stdin.")
    ] = None,
    named: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="Keep it under this name; its address when left out."),
    ] = None,
    ca_bundle: Annotated[
        Path | None,
        typer.Option(
            "--ca-bundle",
            metavar="FILE",
            envvar="BOOTFERRY_CA_BUNDLE",
            show_envvar=False,
            help="More certificates to trust for this region.",
        ),
    ] = None,
) -> None:
    """Log in to a region. The token is asked for, tried, and kept in a file that only you can read.

    A token is never taken from the command line: other users of this machine could see it there. You may log in to
    several regions; the last one is meant until `profile use` or BOOTFERRY_PROFILE names another.
    """
    from region.cli.client import NotARegion

    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InvalidValue("URL", url, "it must begin with http:// or https:// and name a host")
    known = profile.load(profile.file())
    name = named or profile.name_for(url)
    bundle = None if ca_bundle is None else str(ca_bundle.absolute())
    wished = Profile(url.rstrip("/"), "", bundle)

    async def greet(api: "Api") -> tuple[str, str]:
        region = await api.get("region")
        if "fingerprint" not in region:
            raise NotARegion(wished.url, "it does not say which one it is")
        return str(region.get("name")), str(region.get("version"))

    async def prove(api: "Api") -> Item:
        return await api.get("session")

    # Who answers is known before the token is asked for, or sent.
    region, version = speak(wished, greet)
    wished = Profile(wished.url, _token(token_file), bundle)
    who = speak(wished, prove)
    profile.save(known.with_profile(name, wished), profile.file())
    known_as = f" as {who['name']} ({who.get('role')})" if who.get("name") else ""
    output.say(f"Logged in to {region} at {wished.url}, version {version}{known_as}.")
    if _exposed(wished.url):
        output.note("The token travels unencrypted to this address; use https where others share the network.")


def logout() -> None:
    """Forget the region that is meant at the moment, and its token."""
    known = profile.load(profile.file())
    name = profile.chosen(os.environ, known)
    if not name:
        output.say("You are not logged in to any region.")
        return
    left = known.without(name)
    profile.save(left, profile.file())
    output.say(f"Logged out of {known.named[name].url}.")
    if left.current:
        output.note(f"Now {left.current} is meant: {left.named[left.current].url}.")


def whoami(chosen: Output = Format.TABLE) -> None:
    """Show who you are to the region, and what you may do there."""

    async def read(api: "Api") -> tuple[str, Item]:
        return str(api.base), await api.get("session")

    (region, found), now = call(read), datetime.now(UTC)
    output.show_facts(
        chosen,
        found,
        [
            ("Name", str(found.get("name"))),
            ("Role", str(found.get("role"))),
            ("Expires", words.when(found["expires_at"], now) if found.get("expires_at") else "never"),
            ("Region", region),
        ],
    )


@lists(watch=False)
def list_profiles() -> Listing:
    """List the regions you are logged in to."""
    known = profile.load(profile.file())
    return Listing(
        [
            {"name": name, "url": one.url, "ca_bundle": one.ca_bundle, "current": name == known.current}
            for name, one in sorted(known.named.items())
        ],
        [
            Column("PROFILE", lambda item: item["name"]),
            Column("REGION", lambda item: item["url"]),
            Column("CURRENT", lambda item: Cell("yes", "green") if item["current"] else ""),
        ],
        empty="You are not logged in to any region; begin with: bootferry login URL",
    )


def use_profile(name: Annotated[str, typer.Argument(metavar="PROFILE", help="Its name.")]) -> None:
    """Make a profile the one that is meant when none is named."""
    known = profile.load(profile.file())
    if name not in known.named:
        raise InvalidConfiguration(f"There is no profile {name}; make it with: bootferry login URL --profile {name}")
    profile.save(profile.Profiles(name, known.named), profile.file())
    output.say(f"Now {name} is meant: {known.named[name].url}.")


def _token(file: str | None) -> str:
    """The token, from wherever it is to come. Raises Misused, Unauthenticated."""
    if file == "-":
        found = sys.stdin.read(MAX_TOKEN_BYTES)
    elif file is not None:
        try:
            with Path(file).open(encoding="utf-8", errors="replace") as opened:
                found = opened.read(MAX_TOKEN_BYTES)
        except OSError as error:
            raise Misused(f"{file} cannot be read: {error.strerror}.") from error
    elif sys.stdin.isatty():
        # It hides what is typed before it asks: nothing pasted early is shown.
        found = getpass.getpass("Token: ")
    else:
        raise Misused("There is no terminal to ask for the token; give it with --token-file FILE, or - for stdin.")
    token = found.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Unauthenticated("That is no token; one looks like bf_… and an administrator makes it.")
    return token


def _exposed(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True
