"""`make image`: one OCI image of region, rack and command line, on Debian, from the packages in dist/.

- debootstrap makes the root file system, and dpkg installs our packages in it, in a chroot: it needs root.
- What runs in it is not root, and writes below /var/lib/bootferry only: the rest may be mounted for reading.
- Two builds are the same bytes as long as Debian's archive has the same packages.
"""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.local.failure import Failure, exit_status
from deploy.local.packages import Package, ensure, missing
from deploy.release.moment import moment_of
from deploy.release.oci import write_image
from shared import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
DEBOOTSTRAP = Package("debootstrap", program="debootstrap", purpose="makes the image's root file system")
NEEDED = ("ca-certificates", "gpgv", "libgcc-s1", "libstdc++6", "python3", "systemd-standalone-sysusers")
USER = 65532
"""The user and group of what runs in the image."""

FLEETING = (
    *(
        "var/log/*",
        "var/cache/*",
        "var/lib/apt/lists/*",
        "tmp/*",
        "run/*",
        "var/lib/dpkg/*-old",
        "var/lib/shells.state",
    ),
    *("etc/machine-id", "etc/resolv.conf", "etc/hostname", "etc/*-"),
    *("usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/doc/*/*.gz", "usr/share/lintian"),
)
"""What says when and where an image was made, and what nobody reads in a container."""

HEALTHCHECK = '''\
#!/usr/bin/python3 -IS
"""Ends with 0 if the service in this container answers HEAD /readyz with 200; an argument names another URL."""
import http.client
import ssl
import sys
import urllib.parse

for url in sys.argv[1:] or ["http://127.0.0.1:5240/readyz", "http://127.0.0.1:5248/readyz"]:
    parts = urllib.parse.urlsplit(url)
    try:
        if parts.scheme == "https":
            # It is this container that answers. Whose certificate that is, is for those who come from outside.
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=5, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
        connection.request("HEAD", parts.path)
        if connection.getresponse().status == 200:
            sys.exit(0)
    except (OSError, http.client.HTTPException):
        continue
sys.exit(1)
'''


def configuration(version: str) -> Mapping[str, object]:
    """How the image is run (image-spec, config.md); `Healthcheck` is Docker's, with times in nanoseconds."""
    return {
        "User": f"{USER}:{USER}",
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
        "Cmd": ["bootferry-region", "serve"],
        "WorkingDir": "/var/lib/bootferry",
        "Volumes": {"/var/lib/bootferry": {}},
        "ExposedPorts": {"5240/tcp": {}, "5248/tcp": {}},
        "StopSignal": "SIGTERM",
        "Healthcheck": {
            "Test": ["CMD", "/usr/lib/bootferry/healthcheck"],
            "Interval": 10_000_000_000,
            "Timeout": 15_000_000_000,
            "Retries": 3,
            "StartPeriod": 60_000_000_000,
        },
        "Labels": {
            "org.opencontainers.image.title": "Bootferry",
            "org.opencontainers.image.description": "Region, rack and command line of Bootferry",
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    }


def fill(root: Path, release: str, debs: Sequence[Path], moment: int) -> None:
    """Make the root file system in the empty directory `root`. Raises Failure."""
    # Accounts are dated by it too (shadow's useradd).
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(moment), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    archives = CHECKOUT / ".cache" / "debootstrap"
    archives.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={archives}", f"--include={','.join(NEEDED)}"]
    run([*command, release, root], environment)
    with mounted(root):
        for deb in debs:
            shutil.copy(deb, root / "tmp")
        run(["chroot", root, "dpkg", "--install", *(f"/tmp/{deb.name}" for deb in debs)], environment)  # noqa: S108
    for pattern in FLEETING:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for file, line in (
        ("passwd", f"bootferry:x:{USER}:{USER}:Bootferry:/var/lib/bootferry:/usr/sbin/nologin"),
        ("group", f"bootferry:x:{USER}:"),
    ):
        with (root / "etc" / file).open("a") as accounts:
            accounts.write(f"{line}\n")
    state = root / "var/lib/bootferry"
    state.mkdir(exist_ok=True)
    os.chown(state, USER, USER)
    healthcheck = root / "usr/lib/bootferry/healthcheck"
    healthcheck.write_text(HEALTHCHECK)
    healthcheck.chmod(0o755)


@contextlib.contextmanager
def mounted(root: Path) -> Iterator[None]:
    """/proc is there inside, which maintainer scripts of packages look at."""
    run(["mount", "-t", "proc", "proc", root / "proc"], os.environ)
    try:
        yield
    finally:
        run(["umount", root / "proc"], os.environ)


def run(command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    """Run a command that says nothing unless it fails. Raises Failure."""
    ended = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        last = (ended.stdout + ended.stderr).strip().splitlines()[-8:]
        raise Failure(f"{command[0]} has failed:\n" + "\n".join(last))


def packages_of(dist: Path, version: str) -> list[Path]:
    """The three packages of this version in `dist`. Raises Failure."""
    found = sorted(dist.glob(f"bootferry*_{version}-*.deb"))
    if len(found) != 3:
        raise Failure(f"{dist} does not hold the three packages of {version}: run `make deb` first.")
    return found


def build_image(dist: Path, moment: int) -> Path:
    """The image in `dist`, made of the packages there. Raises Failure."""
    debs = packages_of(dist, __version__)
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    architecture = debs[0].stem.rpartition("_")[2]
    with tempfile.TemporaryDirectory(dir=CHECKOUT / ".cache", prefix="image-") as root:
        fill(Path(root), release, debs, moment)
        # It is the image's top directory, which everybody passes through.
        Path(root).chmod(0o755)
        image = dist / f"bootferry-{__version__}-{architecture}.oci.tar"
        write_image(Path(root), image, configuration(__version__), architecture, f"bootferry:{__version__}", moment)
    return image


def main() -> None:
    """Build the image into dist/, or the directory that the command line names, from the packages there."""
    if os.geteuid() != 0:
        raise Failure("the image's root file system can only be made by root: run this with sudo.")
    ensure(missing([DEBOOTSTRAP]))
    dist = Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "dist").resolve()
    print(build_image(dist, moment_of(CHECKOUT)))


if __name__ == "__main__":
    sys.exit(exit_status(main))
