"""Profiles: where a region is and the token that it knows the operator by.

    $XDG_CONFIG_HOME/bootferry/profiles.json   mode 0600, its directory 0700
    {"current": "region:5240", "profiles": {"region:5240": {"url": "http://…", "token": "bf_…", "ca_bundle": null}}}

BOOTFERRY_URL, BOOTFERRY_TOKEN and BOOTFERRY_CA_BUNDLE outrank the profile, which BOOTFERRY_PROFILE names, or else the
last log-in. A profile's token is sent to that profile's URL and to no other.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared.errors import InvalidConfiguration, Unauthenticated

MAX_FILE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Profile:
    """A region and how to speak to it. The token is in no `repr`."""

    url: str
    token: str = field(repr=False)
    ca_bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles, by name, and the one that is meant when none is named."""

    current: str
    named: Mapping[str, Profile]

    def with_profile(self, name: str, profile: Profile) -> "Profiles":
        """These, and this one, which becomes the current one."""
        return Profiles(name, {**self.named, name: profile})

    def without(self, name: str) -> "Profiles":
        """These without that one; when it was the current one, the first of the others is."""
        left = {known: profile for known, profile in self.named.items() if known != name}
        return Profiles(self.current if self.current in left else next(iter(left), ""), left)


def file() -> Path:
    """Where profiles are kept."""
    from platformdirs import user_config_path

    return user_config_path("bootferry", appauthor=False) / "profiles.json"


def load(path: Path) -> Profiles:
    """The profiles in a file; none where there is no file. Raises InvalidConfiguration."""
    try:
        with path.open("rb") as opened:
            document = json.loads(opened.read(MAX_FILE_BYTES))
        named = {name: Profile(**fields) for name, fields in document["profiles"].items()}
        return Profiles(document["current"], named)
    except FileNotFoundError:
        return Profiles("", {})
    except OSError as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidConfiguration(f"{path} does not hold profiles; remove it and log in again.") from error


def save(profiles: Profiles, path: Path) -> None:
    """Write the profiles, readable by nobody else, all or nothing. Raises InvalidConfiguration."""
    document = {"current": profiles.current, "profiles": {name: asdict(one) for name, one in profiles.named.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=".profiles-")  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
                json.dump(document, opened, indent=2, ensure_ascii=False)
                opened.write("\n")
            Path(staged).replace(path)
        except BaseException:
            Path(staged).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidConfiguration(f"{path} cannot be written: {error.strerror}.") from error


def name_for(url: str) -> str:
    """How the profile of a region is called unless somebody says otherwise: as the region's address is."""
    return url.partition("://")[2].rstrip("/")


def chosen(environ: Mapping[str, str], known: Profiles) -> str:
    """The name of the profile that is meant; empty for none.

    Raises InvalidConfiguration when there is no such profile.
    """
    name = environ.get("BOOTFERRY_PROFILE") or known.current
    if name and name not in known.named:
        raise InvalidConfiguration(f"There is no profile {name}; make it with: bootferry login URL --profile {name}")
    return name


def active(environ: Mapping[str, str], known: Profiles) -> Profile:
    """The region to speak to. Raises Unauthenticated when there is no token for it; InvalidConfiguration."""
    url = environ.get("BOOTFERRY_URL", "").rstrip("/")
    token = environ.get("BOOTFERRY_TOKEN", "").strip()
    bundle = environ.get("BOOTFERRY_CA_BUNDLE") or None
    if url and token:
        return Profile(url, token, bundle)
    kept = known.named.get(chosen(environ, known))
    if kept is None and not url:
        raise Unauthenticated("You are not logged in to any region; begin with: bootferry login URL")
    if kept is None or url not in ("", kept.url):
        raise Unauthenticated(f"There is no token for {url}; set BOOTFERRY_TOKEN, or run: bootferry login {url}")
    return Profile(kept.url, token or kept.token, bundle or kept.ca_bundle)
