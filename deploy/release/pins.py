"""The part of requirements.lock that one extra of Bootferry needs: the same versions and hashes, nothing resolved anew.

- It begins with what pyproject.toml names for the extra, and follows the lock's own `# via` comments (uv writes them).
- A comment names a package, not which of its extras was asked for: the part may hold a package too many, never one too
  few.
- Standard library only, and no network.
"""

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from deploy.local.failure import Failure, exit_status

CHECKOUT = Path(__file__).resolve().parents[2]
EXTRAS = ("cli", "rack", "region")

_PIN = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9-]*)==(?P<rest>[^\n]*\n(?:    --hash=[^\n]*\n)+)(?P<via>(?:    #[^\n]*\n)*)",
    re.MULTILINE,
)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of the lock: its text there, what that says, and the packages that asked for it."""

    text: str
    version: str
    marker: str
    sha256: tuple[str, ...]
    needed_by: frozenset[str]


def pins(lock: str) -> dict[str, Pin]:
    """What the text of a requirements.lock pins, by name."""
    found = {}
    for match in _PIN.finditer(lock):
        first, _, hashes = match["rest"].partition("\n")
        version, _, marker = first.removesuffix("\\").partition(";")
        found[match["name"]] = Pin(
            f"{match['name']}=={match['rest']}",
            version.strip(),
            marker.strip(),
            tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", hashes)),
            frozenset(re.findall(r"#\s+(?:via\s+)?([a-z0-9][a-z0-9-]*)$", match["via"], re.MULTILINE)),
        )
    return found


def requirements(lock: str, project: str, extra: str) -> set[str]:
    """The names of all that `extra` needs.

    `lock` is the text of requirements.lock, `project` that of pyproject.toml. Raises Failure unless `extra` is one of
    the project's, and each package it names is in the lock.
    """
    table = tomllib.loads(project)["project"]
    try:
        asked = [*table["dependencies"], *table["optional-dependencies"][extra]]
    except KeyError:
        raise Failure(f"pyproject.toml has no extra {extra}: name one of {', '.join(EXTRAS)}.") from None
    pinned = pins(lock)
    wanted = {_normal(requirement) for requirement in asked}
    if missing := sorted(wanted - pinned.keys()):
        raise Failure(f"requirements.lock does not pin {', '.join(missing)}: make it anew with `make lock`.")
    todo = set(wanted)
    while todo:
        todo = {name for name, pin in pinned.items() if pin.needed_by & todo} - wanted
        wanted |= todo
    return wanted


def part(lock: str, project: str, extra: str) -> str:
    """The pins of `extra`, and of what its packages need, as a lock of their own. Raises Failure as `requirements`."""
    pinned = pins(lock)
    return "".join(pinned[name].text for name in sorted(requirements(lock, project, extra)))


def _normal(requirement: str) -> str:
    """The name of a requirement as locks write it (PEP 503)."""
    name = _REQUIREMENT.match(requirement)
    return re.sub(r"[-_.]+", "-", name[0]).lower() if name else ""


def main() -> None:
    """Print the part of the lock for the extra that the command line names. Raises Failure."""
    extra = sys.argv[1] if len(sys.argv) == 2 else ""
    lock, project = (CHECKOUT / "requirements.lock").read_text(), (CHECKOUT / "pyproject.toml").read_text()
    sys.stdout.write(part(lock, project, extra))


if __name__ == "__main__":
    sys.exit(exit_status(main))
