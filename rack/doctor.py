"""`bootferry-rack doctor`: everything an operator could have wrong on a rack's machine, seen as the service."""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
from yarl import URL

from rack import identity as identities
from rack.client import Region
from rack.configuration import RackConfiguration
from rack.identity import Identity
from rack.lock import holder
from rack.tree import Tree, holes, load_current
from shared import checkup
from shared.checkup import Finding
from shared.errors import BootferryError, Conflict, InvalidConfiguration
from shared.http import client_session, read_capped, request, require_ok
from shared.listening import listening
from shared.machine import Machine
from shared.signing import encode_bytes, public_bytes

UNIT = "bootferry-rack.service"
ASK_WITHIN_S = 15.0
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(slots=True)
class Doctor:
    """Looks at one rack; a check leaves to the later ones what it has found."""

    configuration: RackConfiguration
    machine: Machine
    now: Callable[[], datetime]
    identity: Identity | None = None
    date: str | None = None
    """What the region says the time is."""

    reached: bool = False

    async def examine(self) -> list[Finding]:
        """Every check, in an order in which the first that fails explains the later ones."""
        unit = await asyncio.to_thread(self.machine.unit, UNIT)
        root = self.configuration.data_dir

        async def files() -> str:
            return checkup.open_files(unit)

        return await checkup.examine(
            {
                "directory": lambda: asyncio.to_thread(checkup.directory, root, "RACK_DATA_DIR"),
                "hard links": lambda: asyncio.to_thread(_hard_links, root),
                "enrolment": self._enrolment,
                "region": self._region,
                "clock": self._clock,
                "known there": self._known,
                "tree": lambda: asyncio.to_thread(_tree, root),
                "readable": lambda: asyncio.to_thread(_readable, root),
                "port": self._port,
                "open files": files,
                "unit": lambda: asyncio.to_thread(checkup.unit, self.machine, UNIT),
            }
        )

    async def _enrolment(self) -> str:
        root = self.configuration.data_dir
        identity = await asyncio.to_thread(identities.load, root)
        for name in ("rack.key", "region.json"):
            checkup.secret(root / "identity" / name)
        self.identity = identity
        return f"This rack is {identity.name} at {identity.region_url}."

    async def _region(self) -> str:
        identity = self._enrolled()
        url = identity.region_url.joinpath("api/v1/region")
        async with (
            self._session() as session,
            request(session, "GET", url, proxy=self._proxy, deadline_s=ASK_WITHIN_S) as response,
        ):
            self.date = response.headers.get("Date")
            await require_ok(response)
            body = await read_capped(response, MAX_ANSWER_BYTES)
        self.reached = True
        try:
            found = json.loads(body)["public_key"]
        except (ValueError, KeyError, TypeError):
            raise BootferryError(f"What answers at {url} is no Bootferry region: is the address right?") from None
        if found != encode_bytes(public_bytes(identity.region_key)):
            return "It answers, with a newer key than this rack knows; the next poll follows it if the old one vouches."
        return f"It answers at {identity.region_url}, with the key that this rack believes."

    async def _known(self) -> str:
        identity = self._enrolled()
        if not self.reached:
            raise BootferryError("It is not looked at while the region is away: mend that first.")
        async with self._session() as session:
            await Region(session, identity, now=self.now, proxy=self._proxy).manifest("")
        return "The region takes this rack's requests."

    async def _clock(self) -> str:
        return checkup.clock(self.date, self.now(), "the region")

    async def _port(self) -> str:
        configuration = self.configuration
        at = f"port {configuration.port} of {configuration.host}"
        process = holder(configuration.data_dir / "lock")
        try:
            with listening("RACK", configuration.host, configuration.port):
                pass
        except Conflict as conflict:
            if process is None:
                raise BootferryError(f"Another program listens at {at}: stop it, or set RACK_PORT.") from conflict
            return f"The rack (process {process}) listens at {at}."
        if process is not None:
            raise BootferryError(f"The rack (process {process}) runs and does not listen at {at}: restart it.")
        return f"Nobody listens at {at}: it is free for the rack."

    def _session(self) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        certificates = self.identity.ca_certificates if self.identity else ""
        return client_session(ca_bundle=self.configuration.ca_bundle, ca_certificates=certificates)

    @property
    def _proxy(self) -> URL | None:
        return URL(self.configuration.proxy) if self.configuration.proxy else None

    def _enrolled(self) -> Identity:
        if self.identity is None:
            raise InvalidConfiguration("It is not looked at while this rack is not enrolled: mend that first.")
        return self.identity


def _hard_links(root: Path) -> str:
    """Raises BootferryError, OSError."""
    one, two = root / ".doctor.one", root / ".doctor.two"
    try:
        one.touch(mode=0o600)
        os.link(one, two)
    except PermissionError as error:
        raise BootferryError(
            f"The file system of {root} takes no hard links ({error.strerror}), and trees are made of them: use ext4."
        ) from error
    finally:
        two.unlink(missing_ok=True)
        one.unlink(missing_ok=True)
    return "The file system takes them."


def _tree(root: Path) -> str:
    """Raises BootferryError."""
    tree = load_current(root)
    if tree is None:
        return "There is none yet; it comes with the first poll that brings images."
    missing = holes(root, tree)
    if missing:
        raise BootferryError(
            f"{len(missing)} files of the tree are missing or damaged, {missing[0]} among them: bootferry-rack poll"
            " fetches them again."
        )
    return f"Machines get {len(tree.images())} images, and every file is as it was verified."


def _readable(root: Path) -> str:
    """A TFTP server beside the rack reads the tree too. Raises BootferryError, OSError."""
    tree: Tree | None = load_current(root)
    if tree is None:
        return "There is no tree yet."
    place = root / "trees" / tree.name
    for directory in (root, root / "trees", place):
        if not directory.stat().st_mode & 0o001:
            raise BootferryError(f"Only the rack may enter {directory}, so no TFTP server can: chmod a+x {directory}.")
    closed = [path for path in tree.names if not (place / path).stat().st_mode & 0o004]
    if closed:
        raise BootferryError(f"Only the rack may read {place / closed[0]}: chmod a+r, or remove it and poll.")
    return "A TFTP server on this machine can read the tree."
