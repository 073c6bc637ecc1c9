"""`bootferry-region doctor`: everything an operator could have wrong on a region's machine, seen as the service."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from region import keys as region_keys
from region.catalogue import sources
from region.catalogue.sources import Source
from region.configuration import RegionConfiguration
from region.database import tables
from region.database.address import parse
from region.database.connection import create_engine, require_migrated, transaction
from region.database.watch import Watch
from region.importing import reading
from region.keys import REGION_KEY, SECRETS_KEY
from region.listening import certificate_of
from region.people import settings
from region.secrets import KEY_BYTES, Address, Secrets, fingerprint_of
from region.stream.keys import usable_keyring
from shared import checkup
from shared.checkup import Finding
from shared.errors import BootferryError, Conflict
from shared.http import client_session, parse_url, read_capped, request, require_ok
from shared.listening import listening
from shared.machine import Machine
from shared.names import RelativePath
from shared.signing import fingerprint, load_key

UNIT = "bootferry-region.service"
ASK_WITHIN_S = 15.0
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(slots=True)
class Doctor:
    """Looks at one region; a check leaves to the later ones what it has found."""

    configuration: RegionConfiguration
    machine: Machine
    now: Callable[[], datetime]
    database: bool = False
    known: tuple[str, str | None] | None = None
    """The fingerprints of both keys, as the database knows them."""

    secrets: Secrets | None = None
    dates: list[tuple[str, str | None]] = field(default_factory=list)
    """What others say the time is."""

    _engine: AsyncEngine = field(init=False)

    def __post_init__(self) -> None:
        self._engine = create_engine(self.configuration.database_url)

    async def examine(self) -> list[Finding]:
        """Every check, in an order in which the first that fails explains the later ones."""
        unit = await asyncio.to_thread(self.machine.unit, UNIT)
        watch = Watch(parse(self.configuration.database_url))

        async def away() -> str:
            await watch.require_well()
            self.database = True
            return f"It answers ({watch.place})."

        async def files() -> str:
            return checkup.open_files(unit)

        try:
            return await checkup.examine(
                {
                    "directory": lambda: asyncio.to_thread(
                        checkup.directory, self.configuration.data_dir, "REGION_DATA_DIR"
                    ),
                    "database": away,
                    "schema": self._schema,
                    "keys": self._keys,
                    "gpgv": self._gpgv,
                    "sources": self._sources,
                    "clock": self._clock,
                    "TLS": self._tls,
                    "port": self._port,
                    "open files": files,
                    "unit": lambda: asyncio.to_thread(checkup.unit, self.machine, UNIT),
                }
            )
        finally:
            await self._engine.dispose()

    async def _schema(self) -> str:
        self._require_database()
        await require_migrated(self._engine)
        async with transaction(self._engine) as connection:
            row = (
                await connection.execute(select(tables.region.c.fingerprint, tables.region.c.secrets_fingerprint))
            ).one_or_none()
        if row is None:
            raise BootferryError("The database has no region yet: bootferry-region setup, or start the service.")
        self.known = row.fingerprint, row.secrets_fingerprint
        return "It is this version's."

    async def _keys(self) -> str:
        directory, given = region_keys.key_directory(self.configuration)
        for name in (REGION_KEY, SECRETS_KEY):
            if not (directory / name).is_file():
                raise BootferryError(
                    f"{directory / name} is not there: put it back from its backup; a new region makes it by itself."
                )
            if not given:
                checkup.secret(directory / name)
        signing, sealing = load_key(directory / REGION_KEY), (directory / SECRETS_KEY).read_bytes()
        if len(sealing) != KEY_BYTES:
            raise BootferryError(f"{directory / SECRETS_KEY} is not {KEY_BYTES} bytes long: put its backup back.")
        self.secrets = Secrets(lambda: [sealing])
        if self.known is not None and self.known != (fingerprint(signing), fingerprint_of(sealing)):
            raise BootferryError(
                f"The keys in {directory} are not those that the database knows: put those back from their backup, or"
                " correct REGION_KEYS."
            )
        return (
            f"Both are in {directory}, for nobody else to read; racks know this region as {fingerprint(signing)[:16]}…."
        )

    async def _gpgv(self) -> str:
        if (found := shutil.which("gpgv")) is None:
            raise BootferryError("gpgv is missing, which verifies every signature: apt install gpgv.")
        return f"{found} verifies signatures."

    async def _sources(self) -> str:
        self._require_database()
        if self.secrets is None:
            raise BootferryError("Sources are not looked at while the keys are wrong: mend those first.")
        async with transaction(self._engine) as connection:
            known = await sources.list_all(connection)
            proxy = (await settings.get(connection)).proxy
        wrong = [told for source in known if (told := await self._source(source, proxy, self.secrets))]
        if wrong:
            raise BootferryError(" ".join(wrong))
        names = ", ".join(f"'{source.name}'" for source in known)
        return f"{names} can be reached." if known else "There is none: bootferry source add NAME URL."

    async def _source(self, source: Source, proxy: Address | None, secrets: Secrets) -> str:
        """What is wrong with a source; nothing when all is well."""
        try:
            if not source.keyring_readable:
                raise BootferryError(f"its keyring {source.keyring_path or source.keyring_name} cannot be read")
            if source.keyring is not None:
                usable_keyring(source.keyring, self.now())
            index = "streams/v1/index.json" if source.unsigned else "streams/v1/index.sjson"
            async with reading.connect(source, proxy, secrets) as upstream:
                asked = request(
                    upstream.session,
                    "GET",
                    upstream.url(RelativePath(index)),
                    proxy=upstream.proxy,
                    deadline_s=ASK_WITHIN_S,
                )
                async with asked as response:
                    self.dates.append((f"the source '{source.name}'", response.headers.get("Date")))
                    await require_ok(response)
        except BootferryError as error:
            return f"The source '{source.name}' (bootferry source show): {error}"
        return ""

    async def _clock(self) -> str:
        if not self.dates:
            return "It was not compared: no source has answered."
        whose, said = self.dates[0]
        return checkup.clock(said, self.now(), whose)

    async def _tls(self) -> str:
        certificate = await asyncio.to_thread(certificate_of, self.configuration)
        if certificate is None:
            return f"The region speaks plain HTTP, at {self.configuration.host}."
        return f"The certificate counts until {certificate.pair.expires_at:%Y-%m-%d}."

    async def _port(self) -> str:
        """The region listens at its port, or nobody does."""
        configuration = self.configuration
        at = f"port {configuration.port} of {configuration.host}"
        try:
            with listening("REGION", configuration.host, configuration.port):
                pass
        except Conflict as conflict:
            if configuration.tls_certificate is not None or await self._answers():
                return f"The region listens at {at}."
            raise BootferryError(f"Another program listens at {at}: stop it, or set REGION_PORT.") from conflict
        return f"Nobody listens at {at}: it is free for the region."

    async def _answers(self) -> bool:
        """True if this region answers at its port."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.configuration.host, self.configuration.host)  # noqa: S104
        shown = f"[{host}]" if ":" in host else host
        url = parse_url(f"http://{shown}:{self.configuration.port}/api/v1/region")
        try:
            async with client_session() as session, request(session, "GET", url, deadline_s=ASK_WITHIN_S) as response:
                answer = json.loads(await read_capped(response, MAX_ANSWER_BYTES))
            return self.known is None or answer["fingerprint"] == self.known[0]
        except (BootferryError, ValueError, KeyError, TypeError):
            return False

    def _require_database(self) -> None:
        if not self.database:
            raise BootferryError("It is not looked at while the database is away: mend that first.")
