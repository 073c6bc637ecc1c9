"""The rack's configuration: `RACK_…` in the environment, `/etc/bootferry/rack.toml`, defaults.

How often the rack polls is not among them: five minutes is the product's promise (`shared/promises.py`). The region's
address is not either: it belongs to the enrolment, together with the region's key (`identity.py`).
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from shared.configuration import Addresses, PemFile, ServiceConfiguration
from shared.errors import InvalidValue
from shared.http import parse_url
from shared.logs import LogFormat
from shared.networks import LOOPBACK


def _http_url(text: str) -> str:
    try:
        return str(parse_url(text))
    except InvalidValue as error:
        raise ValueError(error.why) from error


class RackConfiguration(ServiceConfiguration):
    """Everything an operator may decide about one rack."""

    service: ClassVar[str] = "rack"
    model_config = SettingsConfigDict(env_prefix="RACK_")

    data_dir: Path = Field(
        default=Path("/var/lib/bootferry/rack"),
        description="Where the rack keeps its identity, files and trees: one file system that knows hard links.",
    )
    host: str = Field(
        default="0.0.0.0",  # noqa: S104 - machines must reach it, and it serves nothing secret
        description="The address machines reach the rack at; '::' means every IPv6 and IPv4 address.",
    )
    port: int = Field(default=5248, ge=1, le=65535, description="The TCP port machines reach the rack at.")
    tls_certificate: PemFile | None = Field(
        default=None, description="The certificate to speak TLS with, beside plain HTTP (PEM)."
    )
    tls_key: PemFile | None = Field(default=None, description="The certificate's key (PEM, without a passphrase).")
    tls_port: int = Field(
        default=5249, ge=1, le=65535, description="The TCP port the rack speaks TLS at, where it has a certificate."
    )
    prune_grace_seconds: int = Field(
        default=3600, ge=0, le=30 * 86400, description="How long a file stays on disk after no manifest names it."
    )
    parallel_downloads: int = Field(default=4, ge=1, le=32, description="How many files are pulled at once.")
    ca_bundle: Path | None = Field(
        default=None, description="A PEM file of certificates to trust for the region, beside the system's."
    )
    proxy: Annotated[str, AfterValidator(_http_url)] | None = Field(
        default=None, description="The URL of the HTTP proxy on the way to the region."
    )
    metrics_addresses: Addresses = Field(
        LOOPBACK,
        description="Addresses and networks that read /metrics; `none`: nobody.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")
    log_format: LogFormat = Field(default="text", description="'text' for people, 'json' for machines.")
