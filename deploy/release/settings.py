"""The configuration files that packages bring: every setting of a service, explained, and none of them set.

They are no conffiles of dpkg's: setup writes into them, and dpkg would ask at each upgrade what to do about that.
"""

import json
import textwrap
from pathlib import Path

from pydantic.fields import FieldInfo

from rack.configuration import RackConfiguration
from region.configuration import RegionConfiguration
from shared.configuration import ServiceConfiguration

SERVICES: dict[str, type[ServiceConfiguration]] = {"rack": RackConfiguration, "region": RegionConfiguration}


def file_of(configuration: type[ServiceConfiguration]) -> str:
    """`/etc/bootferry/<service>.toml`, in which every setting is a comment with its default.

    A setting that has no default has no value there: whoever takes the # away and gives none is told so at the start.
    """
    prefix = configuration.model_config.get("env_prefix", "")
    service = configuration.service
    lines = [
        f"# The configuration of bootferry-{service}. Each setting shows its default: take the # away, and change it.",
        f"# A variable {prefix}… of the environment wins over this file.",
        f"# Then: systemctl restart bootferry-{service}",
    ]
    for name, field in configuration.model_fields.items():
        lines += ["", *(f"# {line}" for line in textwrap.wrap(field.description or "", 116))]
        lines.append(f"#{name} = {_shown(field)}".rstrip())
    return "\n".join(lines) + "\n"


def _shown(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    # How we speak to the database is nobody's to choose.
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text.replace("postgresql+asyncpg:", "postgresql:")


def write_settings(into: Path) -> None:
    """Write the files of both services into a directory."""
    into.mkdir(parents=True, exist_ok=True)
    for service, configuration in SERVICES.items():
        (into / f"{service}.toml").write_text(file_of(configuration))
