"""The part of requirements.lock that one extra of Bootferry needs: the same versions and hashes, nothing resolved anew.

- It begins with what pyproject.toml names for the extra, and follows the lock's own `# via` comments (uv writes them).
- A comment names a package, not which of its extras was asked for: the part may hold a package too many, never one too
  few.
- Standard library only, and no network.
"""

import re
import sys
import tomllib
from pathlib import Path

from deploy.local.failure import Failure, exit_status

CHECKOUT = Path(__file__).resolve().parents[2]
EXTRAS = ("cli", "rack", "region")

_PIN = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9-]*)==(?P<rest>[^\n]*\n(?:    --hash=[^\n]*\n)+)(?P<via>(?:    #[^\n]*\n)*)",
    re.MULTILINE,
)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def part(lock: str, project: str, extra: str) -> str:
    """The pins of `extra`, and of what its packages need, as a lock of their own.

    `lock` is the text of requirements.lock, `project` that of pyproject.toml. Raises Failure unless `extra` is one of
    the project's, and each package it names is in the lock.
    """
    table = tomllib.loads(project)["project"]
    try:
        asked = [*table["dependencies"], *table["optional-dependencies"][extra]]
    except KeyError:
        raise Failure(f"pyproject.toml has no extra {extra}: name one of {', '.join(EXTRAS)}.") from None
    pins = {found["name"]: found for found in _PIN.finditer(lock)}
    needs: dict[str, set[str]] = {}
    for name, found in pins.items():
        for needed_by in re.findall(r"#\s+(?:via\s+)?([a-z0-9][a-z0-9-]*)$", found["via"], re.MULTILINE):
            needs.setdefault(needed_by, set()).add(name)
    wanted = {_normal(requirement) for requirement in asked}
    if missing := sorted(wanted - pins.keys()):
        raise Failure(f"requirements.lock does not pin {', '.join(missing)}: make it anew with `make lock`.")
    todo = set(wanted)
    while todo:
        todo = {name for needed_by in todo for name in needs.get(needed_by, ())} - wanted
        wanted |= todo
    return "".join(f"{name}=={pins[name]['rest']}" for name in sorted(wanted))


def names(part_of_lock: str) -> list[str]:
    """The packages that a lock, or a part of one, pins."""
    return [found["name"] for found in _PIN.finditer(part_of_lock)]


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
