"""A server's certificate and key: what is refused at a start, and what goes on when new files come."""

import os
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from region.configuration import RegionConfiguration
from shared.errors import InvalidConfiguration
from shared.tls import Certificate, configured, read_pair
from tests.conftest import Clock
from tests.http.client.certificates import NOW, Authority

Pair = tuple[Path, Path]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.pair("region.test", until=NOW + timedelta(days=90))


def no_certificate(pair: Pair, authority: Authority) -> None:
    pair[0].write_text("a certificate\n")


def no_key(pair: Pair, authority: Authority) -> None:
    pair[1].write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")


def another_key(pair: Pair, authority: Authority) -> None:
    pair[1].write_bytes(authority.pair("other.test")[1].read_bytes())


def passphrase(pair: Pair, authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pair[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"words")))


def wrong_order(pair: Pair, authority: Authority) -> None:
    pair[0].write_bytes(authority.bundle.read_bytes() + pair[0].read_bytes())


def gone(pair: Pair, authority: Authority) -> None:
    pair[0].unlink()


def a_directory(pair: Pair, authority: Authority) -> None:
    pair[1].unlink()
    pair[1].mkdir()


Spoil = Callable[[Pair, Authority], None]
SPOILT: dict[Spoil, str] = {
    no_certificate: "The TLS certificate {} holds no certificate in PEM form; give the file that begins with",
    no_key: "The TLS key {} holds no private key in PEM form.",
    another_key: "The TLS key {} does not belong to the certificate",
    passphrase: "The TLS key {} has a passphrase, which nobody could give at a start; store it without one.",
    wrong_order: "The TLS certificate {} begins with another certificate than the key's; put the server's own first",
    gone: "The TLS certificate {} cannot be read: No such file or directory; check its path.",
    a_directory: "The TLS key {} cannot be read: Is a directory; check its path.",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=[spoil.__name__ for spoil in SPOILT])
def test_a_pair_that_cannot_be_used_is_refused_in_one_sentence(pair: Pair, authority: Authority, spoil: Spoil) -> None:
    spoil(pair, authority)
    said = SPOILT[spoil].format(pair["key" in SPOILT[spoil].split()[2]])
    with pytest.raises(InvalidConfiguration) as refused:
        read_pair(*pair)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read_names_who_must(pair: Pair) -> None:
    pair[1].chmod(0)
    with pytest.raises(InvalidConfiguration, match="Permission denied; let the user of this service read it"):
        read_pair(*pair)


@pytest.mark.parametrize("lacking", [0, 1])
def test_one_setting_of_the_two_is_not_enough(pair: Pair, lacking: int) -> None:
    given = [None if number == lacking else path for number, path in enumerate(pair)]
    with pytest.raises(InvalidConfiguration, match=r"REGION_TLS_(KEY|CERTIFICATE) is not; set both for TLS"):
        configured(given[0], given[1], "REGION_")
    assert configured(None, None, "REGION_") is None


def test_what_is_spoken_is_modern(pair: Pair) -> None:
    context = read_pair(*pair).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    old = [cipher for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert old
    assert all(cipher["name"].startswith("ECDHE-") and cipher["aead"] for cipher in old)
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_new_pair_is_taken_when_its_files_come(pair: Pair, authority: Authority) -> None:
    certificate = Certificate(*pair)
    before = certificate.context
    assert not certificate.look()
    assert certificate.context is before
    authority.pair("region.test", until=NOW + timedelta(days=180), into=pair[0].with_suffix(""))
    assert certificate.look()
    assert certificate.context is not before
    assert certificate.pair.expires_at.date() == (NOW + timedelta(days=180)).date()
    assert not certificate.look()


def test_a_link_that_leads_elsewhere_now_is_a_new_pair(pair: Pair, authority: Authority, tmp_path: Path) -> None:
    links = tmp_path / "live.pem", tmp_path / "live.key"
    for link, path in zip(links, pair, strict=True):
        link.symlink_to(path)
    certificate = Certificate(*links)
    for link, path in zip(links, authority.pair("region.test", into=tmp_path / "second"), strict=True):
        link.unlink()
        link.symlink_to(path)
    assert certificate.look()


@pytest.mark.parametrize("spoil", SPOILT, ids=[spoil.__name__ for spoil in SPOILT])
def test_a_broken_pair_is_told_once_and_the_old_one_goes_on(pair: Pair, authority: Authority, spoil: Spoil) -> None:
    certificate = Certificate(*pair)
    before = certificate.context
    spoil(pair, authority)
    with structlog.testing.capture_logs() as lines:
        assert not certificate.look()
        assert not lines, "its second file may be on its way"
        for _ in range(3):
            assert not certificate.look()
        assert certificate.context is before
        [line] = lines
    assert line["event"].endswith(" The certificate of before goes on.")


def test_a_pair_that_does_not_count_yet_or_any_more_waits(pair: Pair, authority: Authority) -> None:
    certificate = Certificate(*pair)
    before = certificate.context
    into = pair[0].with_suffix("")
    with structlog.testing.capture_logs() as lines:
        for when in ({"until": NOW - timedelta(days=1)}, {"begins": NOW + timedelta(hours=1)}):
            authority.pair("region.test", into=into, **when)
            assert not any(certificate.look() for _ in range(2))
            assert certificate.context is before
    assert "has expired on" in lines[0]["event"]
    assert "does not count before" in lines[1]["event"]


def test_a_pair_that_did_not_count_yet_is_taken_when_it_does(pair: Pair, authority: Authority) -> None:
    clock = Clock(NOW)
    certificate = Certificate(*pair, now=clock)
    authority.pair("region.test", begins=NOW + timedelta(hours=1), into=pair[0].with_suffix(""))
    assert not certificate.look()
    clock.pass_by(timedelta(hours=2))
    assert certificate.look()


def test_its_end_is_told_every_day_from_two_weeks_before(pair: Pair) -> None:
    clock = Clock(NOW)
    certificate = Certificate(*pair, now=clock)
    with structlog.testing.capture_logs() as lines:
        certificate.look()
        assert not lines
        clock.pass_by(timedelta(days=77))
        for _ in range(4):
            certificate.look()
            clock.pass_by(timedelta(hours=12))
        assert len(lines) == 2
        clock.pass_by(timedelta(days=20))
        certificate.look()
    assert f"expires on {NOW + timedelta(days=90):%Y-%m-%d}" in lines[0]["event"]
    assert "has expired: no client believes it." in lines[2]["event"]


def test_a_start_with_an_expired_pair_waits_for_its_successor(authority: Authority) -> None:
    pair = authority.pair("region.test", until=NOW - timedelta(days=1), into=authority.directory / "served")
    certificate = Certificate(*pair)
    authority.pair("region.test", into=authority.directory / "served")
    assert certificate.look()
    assert certificate.pair.expires_at > NOW


def test_a_credential_of_systemd_is_the_file_that_is_read_again(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "credentials"
    given.mkdir()
    for name, path in zip(("region_tls_certificate", "region_tls_key"), pair, strict=True):
        (given / name).write_bytes(path.read_bytes())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(tmp_path))
    configuration = RegionConfiguration.load()
    assert configuration.tls_certificate == given / "region_tls_certificate"
    assert configuration.tls_key == given / "region_tls_key"
    assert configured(configuration.tls_certificate, configuration.tls_key, "REGION_") is not None


def test_no_key_is_taken_for_a_path_or_told(pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("REGION_TLS_KEY", pair[1].read_text())
    with pytest.raises(InvalidConfiguration, match="REGION_TLS_KEY is not usable: it must be the path") as refused:
        RegionConfiguration.load()
    assert pair[1].read_text().splitlines()[1] not in str(refused.value)
