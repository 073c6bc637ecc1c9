"""A region and two racks, each on a machine of its own, installed as docs/install.md says; and a sample mirror."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import __version__
from tests.system.base import CHECKOUT, MACHINES
from tests.system.machine import Machine, Network, switched_on

NETWORK = Network("bootferry-test", "10.77.0.1")
ADDRESSES = {"region": "10.77.0.2", "rack1": "10.77.0.3", "rack2": "10.77.0.4"}
RACKS = ("rack1", "rack2")
URL = "https://region.example.org:5240"
MIRROR = "http://mirror.example.org:5280/"
IMAGE = "ubuntu/resolute/amd64"
"""The newest LTS that the sample mirror has."""

PLACE = "/root/install"
"""Where the blocks of docs/install.md are carried out: packages and certificates lie there."""


def blocks(heading: str) -> list[str]:
    """The blocks to paste of a section of docs/install.md, in order."""
    page = (CHECKOUT / "docs" / "install.md").read_text()
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@dataclass(slots=True)
class Site:
    """The machines, by name, and what an operator does with them."""

    machines: dict[str, Machine]
    directory: Path

    @property
    def region(self) -> Machine:
        """The machine with the region and its PostgreSQL."""
        return self.machines["region"]

    @property
    def racks(self) -> list[Machine]:
        """The machines with a rack each."""
        return [self.machines[name] for name in RACKS]

    def put(self, machine: Machine, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Write a file of a machine, as root would."""
        file = MACHINES / machine.name / "root" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)

    def bring(self, machine: Machine, *packages: str) -> None:
        """Put packages that were built in dist/ where they are installed from."""
        for package in packages:
            (deb,) = (CHECKOUT / "dist").glob(f"{package}_{__version__}-*.deb")
            self.put(machine, f"{PLACE}/{deb.name}", deb.read_bytes())

    def paste(self, machine: Machine, block: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
        """How a block ended that root has pasted: it ends with the first command that fails.

        `typed` is what root types at a terminal when asked.
        """
        self.put(machine, f"{PLACE}/block", block)
        run = "bash -eu -o pipefail block"
        if typed:
            # Not before it is asked for: what is typed early is not taken.
            run = f"(sleep 4; cat; sleep 4) | script --quiet --return --command '{run}' /dev/null"
        return machine.start(f"cd {PLACE} && {run}", typed, timeout_s=400)

    def certificate(self, name: str) -> tuple[bytes, bytes]:
        """A certificate for a machine's name, signed by the site's own CA, and its key."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        if not certificate.exists():
            asked = self.directory / f"{name}.csr"
            openssl("req", "-new", "-nodes", *KEY, "-keyout", key, "-out", asked, "-subj", f"/CN={name}.example.org")
            (self.directory / "san").write_text(f"subjectAltName=DNS:{name}.example.org\n")
            authority = ("-CA", self.ca, "-CAkey", self.ca.with_suffix(".key"), "-CAcreateserial")
            extended = ("-days", 30, "-extfile", self.directory / "san")
            openssl("x509", "-req", "-in", asked, "-out", certificate, *extended, *authority)
        return certificate.read_bytes(), key.read_bytes()

    @property
    def ca(self) -> Path:
        """The certificate of the site's own CA."""
        certificate = self.directory / "ca.pem"
        if not certificate.exists():
            named = ("-subj", "/CN=Test CA", "-days", 30, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
            openssl("req", "-x509", "-nodes", *KEY, "-keyout", self.directory / "ca.key", "-out", certificate, *named)
        return certificate

    def publish(self) -> None:
        """Have the mirror publish new versions, and the region bring them in."""
        command = [sys.executable, "-m", "deploy.local.mirror", "publish", "--dir", str(self.directory / "mirror")]
        subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
        self.region.run("bootferry sync --wait")

    def images(self) -> dict[str, str]:
        """What the region says of each image: its status, by its name."""
        found: Any = json.loads(self.region.run("bootferry images -o json"))
        return {entry["id"]: entry["status"] for entry in found}

    def until_synced(self, within_s: float = 90) -> None:
        """Return once every rack shows all of what is selected. Racks are asked to poll meanwhile."""
        deadline = time.monotonic() + within_s
        found: dict[str, str] = {}
        while True:
            with contextlib.suppress(AssertionError):
                found = self.images()
            if set(found.values()) == {"synced"}:
                return
            told = "\n".join(machine.journal() for machine in self.machines.values())
            assert time.monotonic() < deadline, f"{found}\n{told}"
            for rack in self.racks:
                rack.ask("bootferry-rack poll")
            time.sleep(1)


KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def openssl(*arguments: object) -> None:
    """Run openssl. It must succeed."""
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@contextlib.contextmanager
def mirror(directory: Path) -> Iterator[Path]:
    """The sample mirror, at MIRROR for every machine; its keyring."""
    program = [sys.executable, "-m", "deploy.local.mirror", "serve", "--sizes", "tiny"]
    command = NETWORK.inside(*program, "--host", NETWORK.address, "--port", "5280", "--dir", directory / "mirror")
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Sample mirror at ")
            yield directory / "mirror" / "keyring.gpg"
        finally:
            process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def site(directory: Path) -> Iterator[Site]:
    """The whole site, with nothing of ours installed yet. Every machine trusts the site's own CA."""
    with switched_on(NETWORK, ADDRESSES) as machines, mirror(directory) as keyring:
        made = Site(machines, directory)
        made.put(made.region, f"{PLACE}/mirror.gpg", keyring.read_bytes())
        for machine in machines.values():
            made.put(machine, "/usr/local/share/ca-certificates/site.crt", made.ca.read_bytes())
            machine.run("update-ca-certificates >/dev/null")
        yield made


def set_up_region(made: Site) -> None:
    """The region, by the blocks of its section; then the mirror takes the place of the one on the internet."""
    region = made.region
    made.bring(region, "bootferry-region", "bootferry")
    certificate, key = made.certificate("region")
    made.put(region, f"{PLACE}/region.pem", certificate)
    made.put(region, f"{PLACE}/region.key", key, 0o600)
    # As apt leaves it where it installs it.
    region.run("systemctl enable --now postgresql")
    install, log_in = blocks("The region")
    told = made.paste(region, install)
    token = re.search(r"\bbf_\S+", told.stdout)
    assert token is not None, told.stdout + told.stderr + region.journal()
    told = made.paste(region, log_in, f"{token[0]}\n")
    assert told.returncode == 0, told.stdout + told.stderr
    region.run(f"bootferry source update maas.io --url {MIRROR} --keyring {PLACE}/mirror.gpg --proxy ''")
    region.run("bootferry sync --wait")
    region.run("bootferry-region doctor")


def set_up_rack(made: Site, rack: Machine) -> None:
    """A rack, by the blocks of its section."""
    made.bring(rack, "bootferry-rack")
    on_region, on_rack = blocks("A rack")
    assert made.paste(made.region, on_region).returncode == 0
    token = MACHINES / "region" / "root" / PLACE.lstrip("/") / "rack.token"
    made.put(rack, f"{PLACE}/rack.token", token.read_bytes(), 0o600)
    told = made.paste(rack, on_rack)
    assert told.returncode == 0, told.stdout + told.stderr + rack.journal()
