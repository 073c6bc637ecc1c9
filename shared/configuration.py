"""Configuration: environment, then systemd credentials, then `/etc/bootferry/<service>.toml`, then defaults.

An unknown key is an error in all three: a setting that is silently ignored is one that somebody relies on.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, ValidationError, ValidationInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from shared.errors import InvalidConfiguration
from shared.networks import Network
from shared.shapes import accepted

EX_CONFIG = 78
"""The exit status of a process whose settings are unusable (sysexits.h); the systemd units do not restart on it."""


def _credentials_path(given: object, info: ValidationInfo) -> object:
    if not isinstance(given, str) or "-----BEGIN " not in given:
        return given
    # systemd gives a file's content under the setting's name; the file is what is read again when it changes.
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    for entry in Path(directory).iterdir() if directory else ():
        if entry.name.lower().endswith(f"_{info.field_name}"):
            return entry
    raise ValueError("it must be the path of a file, not the file's content")


PemFile = Annotated[Path, BeforeValidator(_credentials_path)]
"""The path of a PEM file; the file itself where it is a systemd credential of the setting's name."""


def _networks(given: object) -> object:
    if isinstance(given, str):
        given = [] if given == "none" else [part.strip() for part in given.split(",") if part.strip()]
    if not isinstance(given, list | tuple):
        return given
    try:
        return tuple(ipaddress.ip_network(part) for part in given)
    except ValueError:
        raise ValueError("it must be addresses or networks, like 10.0.0.7,10.1.0.0/16, or none") from None


Addresses = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
"""Addresses and networks: one text with commas between them, a list of texts, or `none`."""


class ServiceConfiguration(BaseSettings):
    """The settings of one service. A subclass names its `service` and `env_prefix`; fields' names carry units."""

    service: ClassVar[str]
    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Ours, in the order the module's first line promises."""
        sources = [init_settings, EnvSettingsSource(settings_cls)]
        if credentials := os.environ.get("CREDENTIALS_DIRECTORY"):
            sources.append(SecretsSettingsSource(settings_cls, secrets_dir=credentials))
        sources.append(TomlConfigSettingsSource(settings_cls, toml_file=cls.config_file()))
        return tuple(sources)

    @classmethod
    def config_file(cls) -> Path:
        """Where the TOML file of this service is looked for; `BOOTFERRY_CONFIG_DIR` moves it."""
        return Path(os.environ.get("BOOTFERRY_CONFIG_DIR", "/etc/bootferry")) / f"{cls.service}.toml"

    @classmethod
    def load(cls) -> Self:
        """The settings of this process, whole and valid. Raises InvalidConfiguration, which names the setting."""
        prefix = cls.model_config.get("env_prefix", "")
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        for variable in (*os.environ, *_credentials()):
            if variable.upper().startswith(prefix) and variable.upper() not in known:
                raise InvalidConfiguration(
                    f"{variable} is not a setting of bootferry-{cls.service}; remove or correct it."
                )
        try:
            return cls()
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise InvalidConfiguration(
                    f"{name} in {cls.config_file()} is not a setting of bootferry-{cls.service}; remove or correct it."
                ) from error
            raise InvalidConfiguration(
                f"The setting {prefix}{name.upper()} is not usable: {accepted(first)}."
            ) from error
        except ValueError as error:
            # tomllib says where, and what its parser wanted: only the first is of use.
            at = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
            raise InvalidConfiguration(
                f"{cls.config_file()} is not TOML{f' ({at[1]})' if at else ''}; mend it, or take it away."
            ) from error
        except OSError as error:
            raise InvalidConfiguration(f"{error.filename} cannot be read: {error.strerror}.") from error


def _credentials() -> list[str]:
    """The names of the credentials systemd passed on.

    Raises InvalidConfiguration when their directory cannot be read.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        return [entry.name for entry in Path(directory).iterdir()] if directory else []
    except OSError as error:
        raise InvalidConfiguration(f"{directory} cannot be read: {error.strerror}.") from error
