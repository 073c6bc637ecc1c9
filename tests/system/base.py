"""The root file system that machines begin with: Debian, with what a region and a rack ask of a server."""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
KEPT = CHECKOUT / ".cache" / "system"
MACHINES = KEPT / "machines"

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "iproute2", "procps", "sudo"),
    *("ca-certificates", "curl", "gpgv", "libgcc-s1", "libstdc++6", "openssl", "python3"),
    *("postgresql", "nginx", "haproxy", "dnsmasq-base"),
)
"""What apt would fetch: containers have no way to it, so it is in the base."""

QUIET = ("postgresql", "nginx", "haproxy")
"""Services that a machine starts when it is told to."""

NETWORK = """\
[Match]
Name=host0

[Network]
Address={address}/24
"""


def base() -> Path:
    """The base, made unless it is there. It takes a minute or more once."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    wanted = hashlib.sha256(repr((release, PACKAGES, QUIET)).encode()).hexdigest()[:16]
    root = KEPT / f"base-{release}-{wanted}"
    if root.is_dir():
        return root
    archives = CHECKOUT / ".cache" / "debootstrap"
    archives.mkdir(parents=True, exist_ok=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob("base-*"):
        shutil.rmtree(old)
    making = KEPT / "base-unfinished"
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={archives}", f"--include={','.join(PACKAGES)}"]
    told = subprocess.run(
        [*command, release, making], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    for service in QUIET:
        subprocess.run(["systemctl", f"--root={making}", "--quiet", "disable", service], check=True)
    subprocess.run(["systemctl", f"--root={making}", "--quiet", "enable", "systemd-networkd"], check=True)
    for once in ("etc/machine-id", "etc/hostname", "etc/resolv.conf"):
        (making / once).unlink(missing_ok=True)
    making.rename(root)
    return root


def overlay(name: str, address: str, hosts: Mapping[str, str]) -> Path:
    """The root of one machine: the base below, and what this machine writes above it.

    `hosts` are the machines it knows by name, and their addresses.
    """
    lower = base()
    take_down(name)
    own = MACHINES / name
    for directory in ("upper", "work", "root"):
        (own / directory).mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={own / 'upper'},workdir={own / 'work'}"
    root = own / "root"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    (root / "etc" / "hostname").write_text(f"{name}\n")
    # Without one it would be a first boot, which enables every service there is.
    (root / "etc" / "machine-id").write_text(f"{hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()}\n")
    lines = ["127.0.0.1 localhost", *(f"{where} {who}.example.org {who}" for who, where in hosts.items())]
    (root / "etc" / "hosts").write_text("\n".join(lines) + "\n")
    # Before systemd's own for containers, which would have it ask for an address.
    (root / "etc" / "systemd" / "network" / "10-host0.network").write_text(NETWORK.format(address=address))
    return root


def take_down(name: str) -> None:
    """Unmount a machine's root, and forget what it wrote. Nothing to do is no error."""
    assert name.isalnum()
    own = MACHINES / name
    if not own.exists():
        return
    if os.path.ismount(own / "root"):
        subprocess.run(["umount", own / "root"], check=True)
    shutil.rmtree(own)


def unable() -> str:
    """Why these tests cannot run here; "" where they can."""
    if os.geteuid() != 0:
        return "only root can start machines"
    lacking = [name for name in ("debootstrap", "systemd-nspawn", "ip", "nsenter") if shutil.which(name) is None]
    return f"{', '.join(lacking)}: not installed here" if lacking else ""
