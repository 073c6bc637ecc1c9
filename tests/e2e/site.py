"""A whole site of real processes: regions and racks on loopback, behind a sample mirror the test holds in its hand."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from deploy.local.child import command
from tests.http.conftest import free_port

START_S = 60.0  # when something counts as never coming; what comes is seen at once


@dataclass(slots=True)
class Service:
    """One process of the site. `log` collects what it writes."""

    arguments: list[str]
    environment: dict[str, str]
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    scheme: str = "http"

    @property
    def base(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command([sys.executable, "-m", *self.arguments], death_signal=signal.SIGKILL),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 20.0) -> int:
        """Send the signal and wait for the end; answers the exit status. Nothing if it does not run."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = await asyncio.wait_for(asyncio.to_thread(self.process.wait), within_s)
        self.process = None
        return status

    def told(self, *arguments: str, text: str = "") -> str:
        """What a command of the same program and environment prints when it is given `text`; it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", self.arguments[0], *arguments],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@dataclass(slots=True)
class Site:
    """The processes, and a caller with the administrator's token."""

    directory: Path
    session: aiohttp.ClientSession
    services: list[Service] = field(default_factory=list)

    def add_region(self, name: str, database_url: str, source_url: str, keyring: Path, **settings: str) -> Service:
        """A region process; those of one site share one data directory."""
        port = free_port()
        return self._add(
            ["region", "serve"],
            port,
            name,
            REGION_DATABASE_URL=database_url,
            REGION_DATA_DIR=str(self.directory / "region"),
            REGION_PORT=str(port),
            REGION_DEFAULT_SOURCE_URL=source_url,
            REGION_DEFAULT_SOURCE_KEYRING=str(keyring),
            **settings,
        )

    def add_rack(self, name: str, **settings: str) -> Service:
        """A rack process, not enrolled yet."""
        port = free_port()
        return self._add(
            ["rack", "run"],
            port,
            name,
            RACK_DATA_DIR=str(self.directory / name),
            RACK_HOST="127.0.0.1",
            RACK_PORT=str(port),
            **settings,
        )

    def _add(self, arguments: list[str], port: int, name: str, **environment: str) -> Service:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("REGION_", "RACK_"))}
        service = Service(arguments, clean | environment, self.directory / f"{name}.log", port)
        self.services.append(service)
        return service

    async def start_region(self, region: Service) -> None:
        region.start()
        await self.until_ready(region)

    async def until_ready(self, region: Service) -> None:
        await self.until(lambda: self._answers(f"{region.base}/readyz"))

    async def start_rack(self, rack: Service, region: Service, *, by: str = "") -> None:
        """Enrol the rack if it is not, and start it. `by` is the address it knows the region by, if not its own."""
        if not (Path(rack.environment["RACK_DATA_DIR"]) / "identity" / "region.json").exists():
            _, answer = await self.api(region, "POST", "/enrolment-tokens")
            token = answer["token"]
            name = Path(rack.environment["RACK_DATA_DIR"]).name
            asked = ("enrol", "--region", by or region.base, "--name", name)
            await asyncio.to_thread(rack.told, *asked, text=f"{token}\n")
        rack.start()
        await self.until(lambda: self._answers(f"{rack.base}/livez"))

    async def _answers(self, url: str) -> bool:
        try:
            async with self.session.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def api(self, region: Service, method: str, path: str, **given: Any) -> tuple[int, Any]:
        """Status and JSON of a call with the administrator's token."""
        token = (self.directory / "region" / "admin-token").read_text().strip()
        url = f"{region.base}/api/v1{path}"
        async with self.session.request(method, url, headers={"Authorization": f"Bearer {token}"}, **given) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else None

    async def statuses(self, region: Service) -> dict[str, str]:
        """Status by image."""
        _, answer = await self.api(region, "GET", "/images")
        return {image["id"]: image["status"] for image in answer["items"]}

    async def until(self, check: Callable[[], Any], *, within_s: float = START_S) -> Any:
        """What `check` (plain or async) gives once that is true; the logs tell why when it never is."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            if asyncio.get_running_loop().time() > deadline:
                logs = "\n".join(
                    f"--- {s.log.name}\n{s.log.read_text()[-3000:]}" for s in self.services if s.log.exists()
                )
                raise AssertionError(f"not within {within_s:g} seconds; the last look gave {found!r}\n{logs}")
            await asyncio.sleep(0.1)
