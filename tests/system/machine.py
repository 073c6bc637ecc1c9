"""A machine with its own systemd, and the network that machines share. Facts of systemd-nspawn that cost hours:

- Each machine gets a cgroup of its own before it starts, or stopping a service of one touches the others.
- Commands run by systemd-run inside: nsenter alone keeps the host's capabilities, down to setting its clock.
- The network is a namespace with a bridge; systemd-nspawn is started inside it: no link of the host changes.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.base import MACHINES, overlay, take_down

BOOT_S = 60.0
CGROUPS = [path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")) if path.is_dir()] or [
    Path("/sys/fs/cgroup")
]
PLAIN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class CommandFailed(AssertionError):
    """A command on a machine has ended with another status than 0."""


@dataclass(slots=True)
class Network:
    """A namespace with a bridge. The host's side has an address too, which the sample mirror listens on."""

    name: str
    address: str

    def up(self) -> None:
        """Make it, in the place of one that a killed run has left."""
        self.down()
        for command in (
            f"ip netns add {self.name}",
            f"ip -n {self.name} link set lo up",
            f"ip -n {self.name} link add br0 type bridge",
            f"ip -n {self.name} addr add {self.address}/24 dev br0",
            f"ip -n {self.name} link set br0 up",
        ):
            subprocess.run(shlex.split(command), check=True)

    def down(self) -> None:
        """Remove it. None is no error."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, stderr=subprocess.DEVNULL)

    def inside(self, *command: str | Path) -> list[str]:
        """A command, to be started in the namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, command)]


@dataclass(slots=True)
class Machine:
    """One machine. It is switched off until `boot`, and again after `cut`."""

    name: str
    address: str
    network: Network
    process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Switch it on, and return once its systemd has started everything."""
        for group in self._groups():
            group.mkdir(exist_ok=True)
        enter = "".join(f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))}; " for group in self._groups())
        nspawn = [
            *("systemd-nspawn", "--quiet", f"--directory={MACHINES / self.name / 'root'}", "--boot"),
            *("--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            *(f"--machine={self.name}", "--network-bridge=br0", "--console=read-only"),
        ]
        with (MACHINES / self.name / "console.log").open("ab") as console:
            self.process = subprocess.Popen(
                ["sh", "-c", f"{enter}exec {shlex.join(self.network.inside(*nspawn))}"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self.wait_until_up()

    def wait_until_up(self) -> None:
        """Return once its systemd has started everything."""
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline:
            if self.ask("systemctl is-system-running") in ("running", "degraded"):
                assert self.ask("hostname") == self.name
                return
            time.sleep(0.2)
        raise AssertionError(f"{self.name} does not come up: {self.ask('systemctl list-jobs; systemctl --failed')}")

    def leader(self) -> int | None:
        """Its process 1, as the host numbers it; None while there is none."""
        if self.process is None or self.process.poll() is not None:
            return None
        with contextlib.suppress(OSError, ValueError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for child in map(int, children):
                if Path(f"/proc/{child}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink():
                    return child
        return None

    def start(self, command: str, text: str = "", timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """How a line of bash ended that root types on this machine."""
        leader = self.leader()
        if leader is None:
            return subprocess.CompletedProcess(command, 255, "", f"{self.name} is switched off")
        run = [
            "systemd-run",
            "--quiet",
            "--pipe",
            "--wait",
            "--collect",
            "--setenv=HOME=/root",
            "--setenv=LC_ALL=C.UTF-8",
        ]
        return subprocess.run(
            # systemd would put variables of its own into the line.
            ["nsenter", f"--target={leader}", "--all", *run, "bash", "-c", command.replace("$", "$$")],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=PLAIN,
        )

    def run(self, command: str, text: str = "", timeout_s: float = 120) -> str:
        """What a line of bash prints. Raises CommandFailed unless it ends with 0."""
        ended = self.start(command, text, timeout_s)
        if ended.returncode != 0:
            raise CommandFailed(f"{self.name}: {command}\nstatus {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
        return ended.stdout.strip()

    def ask(self, command: str) -> str:
        """What a line of bash prints, however it ends."""
        try:
            return self.start(command, timeout_s=20).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def until(self, command: str, within_s: float = 60) -> str:
        """What the line prints, once it ends with 0."""
        deadline = time.monotonic() + within_s
        while True:
            ended = self.start(command)
            if ended.returncode == 0:
                return ended.stdout.strip()
            if time.monotonic() > deadline:
                raise CommandFailed(f"{self.name}: {command}\n{ended.stdout}\n{ended.stderr}\n{self.journal()}")
            time.sleep(0.5)

    def journal(self) -> str:
        """The last lines of our services' log."""
        return self.ask("journalctl --no-pager --lines=40 --unit='bootferry-*'")

    def reboot(self) -> None:
        """Have it shut down in order, and come back."""
        assert self.process is not None
        self.start("systemctl --no-block reboot")
        # systemd-nspawn leaves it to the unit it runs in to start it again, and says so by its status.
        assert self.process.wait(timeout=BOOT_S) == 133
        self.boot()

    def cut(self) -> None:
        """Take its power away."""
        if self.process is None:
            return
        if (leader := self.leader()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def remove(self) -> None:
        """Switch it off for good, and forget its disk."""
        self.cut()
        take_down(self.name)
        for group in self._groups():
            for below in sorted(group.rglob("*"), reverse=True) if group.is_dir() else ():
                if below.is_dir():
                    with contextlib.suppress(OSError):
                        below.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()

    def _groups(self) -> list[Path]:
        return [group / f"bootferry-{self.name}" for group in CGROUPS]


@contextlib.contextmanager
def switched_on(network: Network, addresses: Mapping[str, str]) -> Iterator[dict[str, Machine]]:
    """Machines on one network, booted; they and the network are gone afterwards."""
    machines: dict[str, Machine] = {}
    network.up()
    try:
        for name, address in addresses.items():
            overlay(name, address, {**addresses, "mirror": network.address})
            machines[name] = Machine(name, address, network)
        for machine in machines.values():
            machine.boot()
        yield machines
    finally:
        for machine in machines.values():
            machine.remove()
        network.down()
