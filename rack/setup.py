"""`bootferry-rack setup`: from an installed package to a rack that serves. Run again, it adds what is missing."""

from collections.abc import Callable
from dataclasses import dataclass

from rack import identity as identities
from rack.configuration import RackConfiguration
from rack.identity import parse_region_url
from shared import machine as machines
from shared.errors import Conflict, InvalidConfiguration
from shared.machine import Machine

USER = "bootferry-rack"
UNIT = "bootferry-rack.service"
DATA_MODE = 0o711
"""A TFTP server passes through."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator says of it."""

    region: str
    user: str = USER
    start: bool = True


def run(wish: Wish, machine: Machine, say: Callable[[str], None], enrol: Callable[[], None]) -> None:
    """Set the rack up, and tell each step; `enrol` enrols it where it is not. Raises BootferryError, OSError."""
    machines.require_root()
    configuration, url = RackConfiguration.load(), parse_region_url(wish.region)
    owner = machines.user(wish.user, machine, home=configuration.data_dir)
    machines.own_directory(configuration.data_dir, owner, DATA_MODE)
    say(f"{configuration.data_dir} belongs to {wish.user}.")
    try:
        known = identities.load(configuration.data_dir)
    except InvalidConfiguration:
        known = None
        enrol()
    if known is not None and known.region_url != url:
        raise Conflict(
            f"This rack is enrolled at {known.region_url} already; to move it, run bootferry-rack enrol --region {url}"
            " --again."
        )
    if known is not None:
        say(f"This rack is enrolled already, as {known.name} at {known.region_url}.")
    if wish.start:
        say(machines.start(machine, UNIT, changed=known is None))
    say(f"Machines get http://THIS-MACHINE:{configuration.port}/images/ from it.")
