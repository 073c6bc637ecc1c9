"""Where a region listens, and that it listens in the clear to other machines only when an operator said so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from region.configuration import RegionConfiguration
from region.listening import certificate_of, is_loopback
from shared.errors import InvalidConfiguration
from tests.http.client.certificates import Authority

OTHERS_REACH = ["0.0.0.0", "::", "", "10.0.0.7", "192.0.2.1", "fe80::1%1", "2001:db8::1"]  # noqa: S104
LOOPBACK = ["127.0.0.1", "127.8.0.1", "::1", "localhost"]


@pytest.mark.parametrize("host", OTHERS_REACH)
def test_others_reach_an_address_without_tls_only_when_that_is_allowed(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(
        InvalidConfiguration, match=f"^REGION_HOST {re.escape(host)} can be reached from other machines"
    ):
        certificate_of(RegionConfiguration(host=host))
    with structlog.testing.capture_logs() as lines:
        assert certificate_of(RegionConfiguration(host=host, allow_plain_http=True)) is None
    assert [line["log_level"] for line in lines] == ["warning"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_alone_needs_no_tls(host: str) -> None:
    assert is_loopback(host)
    with structlog.testing.capture_logs() as lines:
        assert certificate_of(RegionConfiguration(host=host)) is None
    assert not lines


def test_with_a_certificate_it_listens_anywhere(tmp_path: Path) -> None:
    certificate, key = Authority.create(tmp_path).pair("region.test")
    configuration = RegionConfiguration(host="0.0.0.0", tls_certificate=certificate, tls_key=key)  # noqa: S104
    assert certificate_of(configuration) is not None


def test_a_name_that_leads_nowhere_is_no_address() -> None:
    with pytest.raises(InvalidConfiguration, match=r"^REGION_HOST nowhere\.invalid is no address of this machine: "):
        certificate_of(RegionConfiguration(host="nowhere.invalid"))


def test_the_process_ends_with_78(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGION_")}
    environment |= {
        "REGION_HOST": "0.0.0.0",  # noqa: S104
        "REGION_DATA_DIR": str(tmp_path / "data"),
        "BOOTFERRY_CONFIG_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "region", "serve"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("bootferry-region: REGION_HOST 0.0.0.0 can be reached from other machines")
    assert sentence.endswith("or set REGION_ALLOW_PLAIN_HTTP=true.")
