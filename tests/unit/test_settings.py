"""Where a setting comes from, and how the process that cannot start says why."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from region.configuration import RegionConfiguration
from shared.configuration import EX_CONFIG, ServiceConfiguration
from shared.errors import InvalidConfiguration


class ExampleSettings(ServiceConfiguration):
    """A service with a setting of each kind."""

    service: ClassVar[str] = "example"
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    name: str = "default"
    port: int = Field(default=1, ge=1, le=65535)
    log_level: Literal["info", "debug"] = "info"
    data_dir: Path | None = None


Write = Callable[..., None]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The TOML file, not yet there; the environment is empty of this service."""
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return tmp_path / "example.toml"


@pytest.fixture
def credentials(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


def test_without_anything_defaults_are_used(config: Path) -> None:
    assert ExampleSettings.load() == ExampleSettings.model_construct(
        name="default", port=1, log_level="info", data_dir=None
    )
    assert ExampleSettings.config_file() == config


def test_the_file_is_looked_for_in_etc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOTFERRY_CONFIG_DIR", raising=False)
    assert ExampleSettings.config_file() == Path("/etc/bootferry/example.toml")


@pytest.mark.parametrize(
    ("places", "name"),
    [
        pytest.param("environment credentials file", "environment", id="all"),
        pytest.param("environment file", "environment", id="environment-and-file"),
        pytest.param("environment credentials", "environment", id="environment-and-credentials"),
        pytest.param("credentials file", "credentials", id="credentials-and-file"),
        pytest.param("file", "file", id="file"),
        pytest.param("", "default", id="none"),
    ],
)
def test_precedence(config: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch, places: str, name: str) -> None:
    if "environment" in places:
        monkeypatch.setenv("EXAMPLE_NAME", "environment")
    if "credentials" in places:
        (credentials / "EXAMPLE_NAME").write_text("credentials\n")
    if "file" in places:
        config.write_text('name = "file"\nport = 7\n')
    settings = ExampleSettings.load()
    assert settings.name == name
    assert settings.port == (7 if "file" in places else 1)


@pytest.mark.parametrize("variable", ["EXAMPLE_NAME", "example_name", "Example_Name"])
def test_case_does_not_matter_in_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "here")
    assert ExampleSettings.load().name == "here"


def test_an_empty_variable_is_no_setting(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('name = "file"')
    monkeypatch.setenv("EXAMPLE_NAME", "")
    assert ExampleSettings.load().name == "file"


def test_other_services_variables_are_none_of_ours(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLES_NAME", "x")
    monkeypatch.setenv("ANOTHER_EXAMPLE_NAME", "x")
    assert ExampleSettings.load().name == "default"


def test_settings_do_not_change(config: Path) -> None:
    settings = ExampleSettings.load()
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "port", 2)  # noqa: B010 - written out, the type checker refuses it first


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        pytest.param(
            "EXAMPLE_PROT",
            "80",
            "EXAMPLE_PROT is not a setting of bootferry-example; remove or correct it.",
            id="unknown",
        ),
        pytest.param(
            "example_prot",
            "80",
            "example_prot is not a setting of bootferry-example; remove or correct it.",
            id="lower",
        ),
        pytest.param(
            "EXAMPLE_", "80", "EXAMPLE_ is not a setting of bootferry-example; remove or correct it.", id="bare"
        ),
        pytest.param("EXAMPLE_PORT", "eighty", "The setting EXAMPLE_PORT is not usable: ", id="no-number"),
        pytest.param("EXAMPLE_PORT", "65536", "The setting EXAMPLE_PORT is not usable: ", id="out-of-range"),
        pytest.param("EXAMPLE_LOG_LEVEL", "loud", "The setting EXAMPLE_LOG_LEVEL is not usable: ", id="no-choice"),
    ],
)
def test_a_bad_variable_is_named(
    config: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidConfiguration) as caught:
        ExampleSettings.load()
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"prot = 80", "prot in {config} is not a setting of bootferry-example", id="unknown-key"),
        pytest.param(b"[database]\nurl = 1", "database in {config} is not a setting", id="unknown-table"),
        pytest.param(b"EXAMPLE_PORT = 80", "EXAMPLE_PORT in {config} is not a setting", id="key-with-prefix"),
        pytest.param(b"port = 'x'", "The setting EXAMPLE_PORT is not usable", id="bad-value"),
        pytest.param(b"port = 80\nport = 81", "{config} is not TOML", id="key-twice"),
        pytest.param(b"port: 80", "{config} is not TOML", id="yaml"),
        pytest.param(b"name = '\xff'", "{config} is not TOML", id="not-utf-8"),
    ],
)
def test_a_bad_file_is_named(config: Path, content: bytes, why: str) -> None:
    config.write_bytes(content)
    with pytest.raises(InvalidConfiguration) as caught:
        ExampleSettings.load()
    assert why.format(config=config) in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_that_cannot_be_read_is_named(config: Path) -> None:
    config.touch()
    config.parent.chmod(0)
    try:
        with (
            unprivileged(),
            pytest.raises(InvalidConfiguration, match=rf"^{config} cannot be read: Permission denied\.$"),
        ):
            ExampleSettings.load()
    finally:
        config.parent.chmod(0o700)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Inside, permissions hold for this process even if it is root's."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_unknown_credential_is_named(credentials: Path) -> None:
    (credentials / "EXAMPLE_NMAE").write_text("x")
    with pytest.raises(InvalidConfiguration, match="EXAMPLE_NMAE"):
        ExampleSettings.load()


def test_credentials_of_others_in_the_directory_are_none_of_ours(credentials: Path) -> None:
    (credentials / "tls.key").write_text("x")
    assert ExampleSettings.load().name == "default"


@pytest.mark.parametrize("make", [Path.touch, lambda _path: None], ids=["a-file", "nothing"])
def test_a_credentials_directory_that_is_none_is_named(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    directory = tmp_path / "nowhere"
    make(directory)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    with pytest.raises(InvalidConfiguration, match=f"{directory}"):
        ExampleSettings.load()


@pytest.mark.parametrize("place", ["environment", "credentials", "file"])
def test_a_refusal_does_not_show_the_value(
    config: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "environment":
        monkeypatch.setenv("EXAMPLE_PORT", "hunter2")
    elif place == "credentials":
        (credentials / "EXAMPLE_PORT").write_text("hunter2")
    else:
        config.write_text("port = 'hunter2'")
    with pytest.raises(InvalidConfiguration, match="EXAMPLE_PORT") as caught:
        ExampleSettings.load()
    assert "hunter2" not in str(caught.value)


def test_the_exit_status_is_the_one_of_sysexits() -> None:
    assert EX_CONFIG == 78


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        pytest.param(None, [], id="unset"),
        pytest.param("10.0.0.7", ["10.0.0.7/32"], id="one"),
        pytest.param("10.0.0.7, 10.1.0.0/16,fd00::/8", ["10.0.0.7/32", "10.1.0.0/16", "fd00::/8"], id="several"),
        pytest.param("none", [], id="none"),
    ],
)
def test_addresses_are_a_list(
    config: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, networks: list[str]
) -> None:
    if value is not None:
        monkeypatch.setenv("REGION_TRUSTED_PROXIES", value)
    assert [str(network) for network in RegionConfiguration.load().trusted_proxies] == networks


@pytest.mark.parametrize("value", ["*", "example.org", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1;10.0.0.2"])
def test_what_is_no_address_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("REGION_TRUSTED_PROXIES", value)
    with pytest.raises(
        InvalidConfiguration, match=r"REGION_TRUSTED_PROXIES is not usable: it must be addresses or netw"
    ):
        RegionConfiguration.load()


def test_addresses_in_the_file_are_a_list_too(config: Path) -> None:
    (config.parent / "region.toml").write_text('trusted_proxies = ["10.0.0.7"]\nmetrics_addresses = "10.1.0.0/16"\n')
    found = RegionConfiguration.load()
    assert [str(network) for network in (*found.trusted_proxies, *(found.metrics_addresses or ()))] == [
        "10.0.0.7/32",
        "10.1.0.0/16",
    ]
