"""The region's configuration; `shared.configuration` says where it is looked for."""

from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from region.database.address import PARAMETERS, parse
from shared.configuration import Addresses, PemFile, ServiceConfiguration

DEFAULT_SOURCE_URL = "https://images.maas.io/ephemeral-v3/stable/"


class RegionConfiguration(ServiceConfiguration):
    """Everything an administrator can set about one region process."""

    service: ClassVar[str] = "region"
    model_config = SettingsConfigDict(env_prefix="REGION_", extra="forbid", frozen=True, env_ignore_empty=True)

    database_url: str = Field(
        "postgresql+asyncpg:///bootferry?host=/var/run/postgresql",
        description="The PostgreSQL database, 15 or later.",
        repr=False,
    )
    data_dir: Path = Field(Path("/var/lib/bootferry/region"), description="The files; shared by all processes.")
    keys: Path | None = Field(
        None, description="The directory of the keys; <data_dir>/keys, or systemd's credentials, when unset."
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(5240, ge=0, le=65535, description="The port to listen on.")
    tls_certificate: PemFile | None = Field(
        None, description="The certificate to speak TLS with (PEM), those that lead to its CA after it."
    )
    tls_key: PemFile | None = Field(None, description="The certificate's key (PEM, without a passphrase).")
    allow_plain_http: bool = Field(False, description="Listen without TLS at an address that other machines reach.")
    name: str = Field("region", max_length=64, description="How this region calls itself to racks and people.")
    default_source_url: str = Field(DEFAULT_SOURCE_URL, description="The source a new region begins with.", repr=False)
    default_source_keyring: Path | None = Field(None, description="Its keyring, when it is not the shipped one.")
    admin_token_file: Path | None = Field(
        None, description="Where the first start leaves an administrator's token; <data_dir>/admin-token when unset."
    )
    migrate_on_start: bool = Field(True, description="Bring the database's schema up to date at every start.")
    parallel_downloads: int = Field(4, ge=1, le=32, description="Files fetched from upstream at once.")
    prune_grace_seconds: int = Field(
        86_400, ge=0, description="How long a file nobody needs any more stays for racks that are still pulling it."
    )
    trusted_proxies: Addresses = Field(
        "none", validate_default=True, description="Whose X-Forwarded headers are believed; `none`: nobody's."
    )
    metrics_addresses: Addresses | None = Field(None, description="Who reads /metrics without a token.")
    accel_prefix: str | None = Field(
        None, pattern="^/[a-z0-9/_-]*$", description="Let nginx send files: the internal location of X-Accel-Redirect."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least severe line logged.")
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or for machines.")

    @field_validator("database_url")
    @classmethod
    def _asyncpg(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("postgres", "postgresql", "postgresql+asyncpg"):
            raise ValueError("it must begin with postgresql://")
        whole = f"postgresql+asyncpg://{rest}"
        _require_usable(whole)
        return whole


def _require_usable(url: str) -> None:
    """Raises ValueError unless a connection can be tried with `url`; the words never show it, nor its password."""
    refused = ValueError(
        "it must look like postgresql://user:password@server:5432/database (a password's @ : / as %40 %3A %2F)"
    )
    try:
        parsed = make_url(url)
        # asyncpg reads a URL in another way than SQLAlchemy does: both must take it.
        ports = [parsed.port, urlsplit(url).port, *(int(port) for port in _listed(parsed.query.get("port")))]
        hosts = [parsed.host or "", *_listed(parsed.query.get("host"))]
        for host in hosts:
            if not host.startswith("/"):
                host.encode("idna")
        parse(url)
    except (ArgumentError, ValueError):
        # What it was would be shown by the causes of this error.
        raise refused from None
    unknown = parsed.query.keys() - PARAMETERS
    if unknown:
        raise ValueError(f"its parameter {min(unknown)!r} is not one of PostgreSQL's connections")
    if any(port is not None and not 0 < port < 65536 for port in ports):
        raise ValueError("its port must lie between 1 and 65535")


def _listed(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else value
