"""Real signatures, real gpgv: what is believed, and what every other document is refused with."""

import asyncio
import base64
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pysequoia import ArmorKind, Cert, Profile, SignatureMode, Tsk, armor, sign

from region.stream import keys, openpgp
from region.stream.keys import (
    DEFAULT_KEY_IDS,
    DEFAULT_KEYRING,
    DEFAULT_KEYRING_SHA256,
    judge,
    key_ids,
    parse_keyring,
    shipped_keyring,
    usable_keyring,
)
from region.stream.openpgp import verify
from region.stream.packets import packets_of
from shared.errors import (
    BadSignature,
    InvalidDocument,
    InvalidKeyring,
    InvalidValue,
    KeyAlgorithmRefused,
    KeyExpired,
    KeyRevoked,
    KeyTooSmall,
    SignatureError,
    SignatureExpired,
    SignatureKeyRevoked,
    SignatureWeak,
    TooLarge,
    Unavailable,
    UnknownSigner,
    Unsigned,
)

URL = "http://mirror.example/streams/v1/index.sjson"
NOW = datetime(2026, 7, 1, tzinfo=UTC)
TEXT = b'{\n "format": "index:1.0"\n}'
FRAME = b"-----BEGIN PGP SIGNATURE-----"


@dataclass(frozen=True)
class Signer:
    """A throwaway key, and documents signed with it."""

    secret: Tsk

    @property
    def cert(self) -> Cert:
        return self.secret.extract_certificate()

    @property
    def key_id(self) -> str:
        return self.cert.fingerprint.upper()

    @property
    def keyring(self) -> bytes:
        return bytes(self.cert)

    def sign(self, text: bytes = TEXT, mode: SignatureMode = SignatureMode.CLEAR) -> bytes:
        return sign(self.secret.signer(), text, mode=mode)

    def expired(self) -> bytes:
        """The same key, whose time was over five seconds ago."""
        return bytes(self.cert.set_expiration(datetime.now(UTC) - timedelta(seconds=5), self.secret.certifier()))

    def revoked(self) -> bytes:
        return bytes(Cert.from_bytes(self.keyring + bytes(self.cert.revoke(self.secret.certifier()))))


def generate() -> Signer:
    return Signer(Tsk.generate(user_ids=["Test <test@example.invalid>"], profile=Profile.RFC4880))


@pytest.fixture(scope="module")
def ours() -> Signer:
    return generate()


@pytest.fixture(scope="module")
def theirs() -> Signer:
    return generate()


def text_part(signed: bytes) -> bytes:
    return signed[: signed.index(FRAME)]


def signature_packets(signed: bytes) -> bytes:
    encoded = re.search(rb"SIGNATURE-----\n\n(.*?)\n=", signed, re.DOTALL)
    assert encoded
    return base64.b64decode(encoded[1])


def together(*signed: bytes, packets: bytes = b"") -> bytes:
    """The text of the first document under the signatures of all of them, and other packets in the same armour."""
    joined = b"".join(map(signature_packets, signed)) + packets
    return text_part(signed[0]) + armor(joined, ArmorKind.Signature).encode()


type_case = Callable[[Signer, Signer], tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("case", "text"),
    [
        pytest.param(lambda ours, _: (ours.sign(), ours.keyring), TEXT + b"\n", id="one good signature"),
        pytest.param(lambda ours, theirs: (ours.sign(), theirs.keyring + ours.keyring), TEXT + b"\n", id="second key"),
        pytest.param(
            lambda ours, theirs: (together(ours.sign(), theirs.sign()), ours.keyring),
            TEXT + b"\n",
            id="an unknown signer beside a good one",
        ),
        pytest.param(
            lambda ours, theirs: (together(theirs.sign(), ours.sign()), ours.keyring),
            TEXT + b"\n",
            id="a good signer after an unknown one",
        ),
        pytest.param(
            lambda ours, theirs: (together(theirs.sign(), ours.sign()), ours.keyring + theirs.expired()),
            TEXT + b"\n",
            id="the old key has expired, the new one signed as well",
        ),
        pytest.param(lambda ours, _: (ours.sign() + b"\n \n", ours.keyring), TEXT + b"\n", id="white space at the end"),
        pytest.param(lambda ours, _: (ours.sign(), str(ours.cert).encode()), TEXT + b"\n", id="armoured keyring"),
        pytest.param(
            lambda ours, _: (ours.sign(b"- a\n-----BEGIN PGP SIGNED MESSAGE-----\n-b"), ours.keyring),
            b"- a\n-----BEGIN PGP SIGNED MESSAGE-----\n-b\n",
            id="dashes come back unescaped",
        ),
        pytest.param(
            lambda ours, _: (ours.sign(b"a").replace(b"\na\n", b"\na \t\n"), ours.keyring),
            b"a\n",
            id="white space at line ends was never signed",
        ),
        pytest.param(
            lambda ours, _: (ours.sign(b"a\nb").replace(b"\n", b"\r\n"), ours.keyring), b"a\r\nb\r\n", id="CRLF"
        ),
        pytest.param(
            lambda ours, _: (ours.sign(b"x" * 19_998 + b"\nend"), ours.keyring),
            b"x" * 19_998 + b"\nend\n",
            id="the longest line gpgv reads",
        ),
    ],
)
async def test_what_a_live_key_of_the_keyring_signed_is_returned_as_gpgv_emits_it(
    ours: Signer, theirs: Signer, case: type_case, text: bytes
) -> None:
    signed, keyring = case(ours, theirs)
    assert (await verify(signed, keyring, origin=URL)).text == text


LITERAL = b"\xcb\x0bb\0\0\0\0\0evil\n"


@pytest.mark.parametrize(
    ("case", "error", "says"),
    [
        pytest.param(lambda o, _: (b"", o.keyring), Unsigned, "not signed", id="empty"),
        pytest.param(lambda o, _: (TEXT, o.keyring), Unsigned, "declare the source unsigned", id="plain JSON"),
        pytest.param(
            lambda o, _: (b"\n<!doctype html><title>Log in</title>", o.keyring),
            InvalidDocument,
            "a web page came in its place",
            id="a log-in page",
        ),
        pytest.param(lambda o, _: (gzip.compress(o.sign()), o.keyring), InvalidDocument, "compressed", id="compressed"),
        pytest.param(lambda o, _: (o.sign(mode=SignatureMode.DETACHED), o.keyring), Unsigned, URL, id="detached"),
        pytest.param(
            lambda o, _: (o.sign(mode=SignatureMode.INLINE), o.keyring), BadSignature, "clear-signed", id="inline"
        ),
        pytest.param(
            lambda o, _: (sign(o.secret.signer(), TEXT, armor=False), o.keyring),
            BadSignature,
            "clear-signed",
            id="inline, binary",
        ),
        pytest.param(
            lambda o, _: (o.sign().replace(b"index", b"lndex"), o.keyring), BadSignature, "changed", id="text changed"
        ),
        pytest.param(
            lambda o, _: (o.sign().replace(b"index", b"in\0ex"), o.keyring), BadSignature, "changed", id="NUL in text"
        ),
        pytest.param(
            lambda o, _: (text_part(o.sign(b"a")) + o.sign(b"b")[len(text_part(o.sign(b"b"))) :], o.keyring),
            BadSignature,
            "changed",
            id="signature of another text",
        ),
        pytest.param(
            lambda o, t: (together(o.sign(b"a"), t.sign(b"b")), o.keyring + t.keyring),
            BadSignature,
            "changed",
            id="one good, one that does not fit",
        ),
        pytest.param(lambda o, _: (b"{}\n" + o.sign(), o.keyring), BadSignature, "before", id="text before"),
        pytest.param(lambda o, _: (b"\n" + o.sign(), o.keyring), BadSignature, "before", id="line before"),
        pytest.param(lambda o, _: (o.sign() + b"{}\n", o.keyring), BadSignature, "after", id="text after"),
        pytest.param(lambda o, _: (o.sign() + b"x" * 70_000, o.keyring), BadSignature, "after", id="much text after"),
        pytest.param(lambda o, _: (o.sign() + o.sign(), o.keyring), BadSignature, "after", id="two documents"),
        pytest.param(
            lambda o, _: (o.sign(b"a\nb").replace(b"\nb", b"\n-b"), o.keyring),
            BadSignature,
            "damaged",
            id="unescaped dash in the text",
        ),
        pytest.param(
            lambda o, _: (o.sign().replace(b"SHA512\n", b"SHA512\nNotDashEscaped: yes\n"), o.keyring),
            BadSignature,
            "more than its hash",
            id="NotDashEscaped",
        ),
        pytest.param(
            lambda o, _: (o.sign().replace(b"Hash: SHA512\n", b""), o.keyring),
            BadSignature,
            "cannot check",
            id="no hash header",
        ),
        pytest.param(lambda o, _: (o.sign()[:40], o.keyring), BadSignature, "damaged", id="cut in the head"),
        pytest.param(lambda o, _: (o.sign()[:70], o.keyring), BadSignature, "cut off", id="cut in the text"),
        pytest.param(lambda o, _: (o.sign()[:-80], o.keyring), BadSignature, "cut off", id="cut in the signature"),
        pytest.param(
            lambda o, _: (together(o.sign(), packets=LITERAL), o.keyring),
            BadSignature,
            "more than signatures",
            id="a second text inside the armour",
        ),
        pytest.param(
            lambda o, _: (o.sign(b"x" * 19_999 + b"\nend"), o.keyring),
            BadSignature,
            "lines up to 19998 bytes",
            id="a line gpgv cuts off",
        ),
        pytest.param(lambda o, _: (o.sign(), o.expired()), SignatureExpired, "has expired", id="expired key"),
        pytest.param(lambda o, _: (o.sign(), o.revoked()), SignatureKeyRevoked, "was revoked", id="revoked key"),
        pytest.param(
            lambda o, t: (together(o.sign(), t.sign()), o.expired()),
            SignatureExpired,
            "has expired",
            id="expired key beside an unknown one",
        ),
        pytest.param(lambda o, t: (o.sign(), t.keyring), UnknownSigner, "does not hold", id="other key"),
        pytest.param(lambda o, _: (o.sign(), b""), InvalidKeyring, "empty", id="empty keyring"),
        pytest.param(lambda o, _: (o.sign(), bytes(o.secret)), InvalidKeyring, "secret", id="secret keyring"),
    ],
)
async def test_anything_else_is_refused(
    ours: Signer, theirs: Signer, case: type_case, error: type[SignatureError], says: str
) -> None:
    signed, keyring = case(ours, theirs)
    with pytest.raises(error, match=says) as caught:
        await verify(signed, keyring, origin=URL)
    assert type(caught.value) is error


async def test_an_unknown_signer_is_named_beside_the_keys_that_were_wanted(ours: Signer, theirs: Signer) -> None:
    with pytest.raises(UnknownSigner) as caught:
        await verify(theirs.sign(), ours.keyring, origin=URL)
    assert caught.value.wanted == (ours.key_id,)
    # gpgv names the subkey that signed, which only the owner's certificate ties to the primary key.
    assert re.fullmatch("[0-9A-F]{40}", caught.value.signed_by)
    assert caught.value.signed_by != ours.key_id


async def test_all_good_signers_are_named_by_their_primary_keys(ours: Signer, theirs: Signer) -> None:
    verified = await verify(
        together(theirs.sign(), ours.sign(), ours.sign()), ours.keyring + theirs.keyring, origin=URL
    )
    assert (verified.signers, verified.notes) == ((theirs.key_id, ours.key_id), ())


@pytest.mark.parametrize(
    ("second", "note"),
    [
        pytest.param(lambda _: b"", f"{URL} is also signed by key ", id="unknown"),
        pytest.param(
            lambda them: them.expired(), "has expired, and the keyring needs the mirror's new one.", id="expired"
        ),
        pytest.param(
            lambda them: them.revoked(), "was revoked, and the keyring needs the mirror's new one.", id="revoked"
        ),
    ],
)
async def test_what_is_wrong_with_a_signature_beside_a_good_one_is_noted(
    ours: Signer, theirs: Signer, second: Callable[[Signer], bytes], note: str
) -> None:
    verified = await verify(together(ours.sign(), theirs.sign()), ours.keyring + second(theirs), origin=URL)
    assert verified.signers == (ours.key_id,)
    assert len(verified.notes) == 1
    assert note in verified.notes[0]
    assert verified.notes[0].endswith(".")


async def test_documents_larger_than_the_cap_are_not_read(ours: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openpgp, "MAX_SIGNED_BYTES", 100)
    with pytest.raises(TooLarge):
        await verify(ours.sign(), ours.keyring, origin=URL)


async def test_a_missing_gpgv_is_a_part_that_is_away(
    ours: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="system package gpgv"):
        await verify(ours.sign(), ours.keyring, origin=URL)


STUCK_GPGV = """#!/bin/sh
echo $$ > "{pids}"
head -c 1000000 /dev/zero
exec sleep 60
"""


@pytest.fixture
def stuck_gpgv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gpgv that writes, and then never ends; the file has its process id. Its home directories go to tmp_path."""
    pids, program, scratch = tmp_path / "pid", tmp_path / "bin" / "gpgv", tmp_path / "scratch"
    program.parent.mkdir()
    scratch.mkdir()
    program.write_text(STUCK_GPGV.format(pids=pids))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return pids


def wait_for(pids: Path) -> None:
    while not (pids.exists() and pids.read_text()):
        time.sleep(0.01)


def assert_gone(pids: Path) -> None:
    pid = int(pids.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list((pids.parent / "scratch").iterdir())


async def test_a_gpgv_that_never_ends_is_ended(ours: Signer, stuck_gpgv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openpgp, "GPGV_TIMEOUT_S", 0.3)
    with pytest.raises(Unavailable, match="longer than"):
        await verify(ours.sign(b"x\n" * 500_000), ours.keyring, origin=URL)
    assert_gone(stuck_gpgv)


async def test_cancelling_ends_gpgv_and_removes_its_home(ours: Signer, stuck_gpgv: Path) -> None:
    task = asyncio.create_task(verify(ours.sign(), ours.keyring, origin=URL))
    await asyncio.to_thread(wait_for, stuck_gpgv)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_gone(stuck_gpgv)


@pytest.fixture(scope="module")
def gpg() -> Iterator[Callable[..., bytes]]:
    """gpg with a home of its own, as a function of its arguments. The home's path must be short: it holds sockets."""
    if not shutil.which("gpg"):
        pytest.skip("gpg is not installed; gpgv and pysequoia cover the rest")
    home = tempfile.mkdtemp(prefix="gpg-")

    def run(*arguments: str, text: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout

    try:
        yield run
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)


def test_the_hash_decides_as_well_as_the_key(gpg: Callable[..., bytes]) -> None:
    gpg("--quick-gen-key", "rsa@example.invalid", "rsa2048", "sign", "never")
    keyring = gpg("--export", "rsa@example.invalid")

    def signed(digest: str) -> bytes:
        return gpg("--digest-algo", digest, "--clear-sign", text=TEXT)

    assert asyncio.run(verify(signed("SHA256"), keyring, origin=URL)).text == TEXT + b"\n"
    for weak in ("SHA1", "RIPEMD160"):
        with pytest.raises(SignatureWeak, match="can be forged"):
            asyncio.run(verify(signed(weak), keyring, origin=URL))


def test_an_expired_signature_says_so(gpg: Callable[..., bytes]) -> None:
    past = ("--faked-system-time", "20200101T000000!")
    gpg(*past, "--quick-gen-key", "past@example.invalid", "ed25519", "sign", "never")
    signed = gpg(*past, "-u", "past@example.invalid", "--default-sig-expire", "1d", "--clear-sign", text=TEXT)
    with pytest.raises(SignatureExpired, match="it has expired"):
        asyncio.run(verify(signed, gpg("--export", "past@example.invalid"), origin=URL))


# --- keys, judged ------------------------------------------------------------------------------------------------


def test_a_key_anyone_can_break_signs_nothing(gpg: Callable[..., bytes]) -> None:
    """gpgv takes RSA of 1024 bits and DSA; we do not, neither when a keyring is saved nor when it is used."""
    for kind, refusal in (("rsa1024", KeyTooSmall), ("dsa2048", KeyAlgorithmRefused)):
        user = f"{kind}@example.invalid"
        gpg("--quick-gen-key", user, kind, "sign", "never")
        keyring = gpg("--export", user)
        signed = gpg("-u", user, "--digest-algo", "SHA256", "--clear-sign", text=TEXT)
        assert [key.problem for key in judge(keyring, NOW)] == [refusal.code]
        with pytest.raises(refusal):
            usable_keyring(keyring, NOW)
        with pytest.raises(refusal):
            asyncio.run(verify(signed, keyring, origin=URL))


def test_a_small_subkey_of_a_strong_key_signs_nothing(gpg: Callable[..., bytes]) -> None:
    gpg("--quick-gen-key", "sub@example.invalid", "rsa2048", "cert", "never")
    fingerprint = key_ids(gpg("--export", "sub@example.invalid"))[0]
    gpg("--quick-add-key", fingerprint, "rsa1024", "sign", "never")
    keyring = gpg("--export", fingerprint)
    signed = gpg("-u", fingerprint, "--digest-algo", "SHA256", "--clear-sign", text=TEXT)
    assert [key.problem for key in judge(keyring, NOW)] == [""]
    with pytest.raises(KeyTooSmall, match="1024 bits"):
        asyncio.run(verify(signed, keyring, origin=URL))


def test_a_good_signature_beside_one_by_a_small_key_counts(gpg: Callable[..., bytes], ours: Signer) -> None:
    gpg("--quick-gen-key", "small@example.invalid", "rsa1024", "sign", "never")
    small = gpg("--export", "small@example.invalid")
    signed = gpg("-u", "small@example.invalid", "--digest-algo", "SHA512", "--clear-sign", text=TEXT)
    verified = asyncio.run(verify(together(ours.sign(), signed), ours.keyring + small, origin=URL))
    assert verified.signers == (ours.key_id,)
    assert "also signed by a key that does not count: The key " in verified.notes[0]


@pytest.mark.parametrize("kind", ["rsa2048", "rsa4096", "ed25519", "nistp256", "brainpoolP384r1"])
def test_keys_of_every_accepted_kind_are_usable(gpg: Callable[..., bytes], kind: str) -> None:
    gpg("--quick-gen-key", f"good-{kind}@example.invalid", kind, "sign", "never")
    keyring = gpg("--export", f"good-{kind}@example.invalid")
    assert [key.problem for key in judge(keyring, NOW)] == [""]
    assert usable_keyring(keyring, NOW) == keyring


def test_a_key_expires_and_is_extended_as_its_newest_signature_says(gpg: Callable[..., bytes]) -> None:
    def at(moment: str) -> tuple[str, ...]:
        return ("--faked-system-time", f"{moment}T000000!")

    gpg(*at("20200101"), "--quick-gen-key", "short@example.invalid", "ed25519", "sign", "1y")
    first = gpg("--export", "short@example.invalid")
    fingerprint = key_ids(first)[0]
    gpg(*at("20200601"), "--quick-set-expire", fingerprint, "3y")
    second = gpg("--export", "short@example.invalid")
    gpg(*at("20200901"), "--quick-set-expire", fingerprint, "0")
    third = gpg("--export", "short@example.invalid")
    expired = [
        [key.problem for year in (2020, 2022, 2024) for key in judge(keyring, datetime(year, 7, 1, tzinfo=UTC))]
        for keyring in (first, second, third)
    ]
    assert expired == [["", "key_expired", "key_expired"], ["", "", "key_expired"], ["", "", ""]]
    with pytest.raises(KeyExpired, match=r"expired on 2020-12-31"):
        usable_keyring(first, NOW)


def test_an_expired_and_a_revoked_key_say_so(ours: Signer, theirs: Signer) -> None:
    now = datetime.now(UTC)
    keyring = ours.expired() + theirs.revoked()
    judged = judge(keyring, now)
    assert [(key.fingerprint, key.problem) for key in judged] == [
        (ours.key_id, "key_expired"),
        (theirs.key_id, "key_revoked"),
    ]
    assert all(key.fingerprint in key.sentence and key.sentence.endswith(".") for key in judged)
    with pytest.raises(KeyExpired):
        usable_keyring(keyring, now)
    with pytest.raises(KeyRevoked):
        usable_keyring(theirs.revoked(), now)


def test_a_keyring_keeps_the_keys_that_are_usable(ours: Signer, theirs: Signer) -> None:
    assert usable_keyring(ours.revoked() + theirs.keyring, datetime.now(UTC)) == theirs.keyring


def test_a_key_of_which_one_copy_is_revoked_is_revoked(ours: Signer, theirs: Signer) -> None:
    twice = ours.keyring + theirs.keyring + ours.revoked()
    assert [(key.fingerprint, key.problem) for key in judge(twice, NOW)] == [
        (ours.key_id, "key_revoked"),
        (theirs.key_id, ""),
    ]
    assert usable_keyring(twice, NOW) == theirs.keyring


def test_a_revocation_by_somebody_else_revokes_nothing(ours: Signer, theirs: Signer) -> None:
    foreign = bytes(theirs.cert.revoke(theirs.secret.certifier()))
    assert [key.problem for key in judge(ours.keyring + foreign, datetime.now(UTC))] == [""]
    beside_the_primary_key = packets_of(ours.keyring)
    beside_the_primary_key.insert(1, packets_of(foreign)[0])
    assert [key.problem for key in judge(b"".join(packet.raw for packet in beside_the_primary_key), NOW)] == [""]


def test_a_key_of_an_unknown_kind_is_refused(ours: Signer) -> None:
    primary, *others = packets_of(ours.keyring)
    strange = primary.raw.replace(primary.body, primary.body[:5] + b"\x63" + primary.body[6:])
    with pytest.raises(KeyAlgorithmRefused, match="number 99"):
        usable_keyring(strange + b"".join(packet.raw for packet in others), NOW)


def test_a_modulus_of_few_bits_that_says_it_has_many_is_small() -> None:
    modulus = (2048).to_bytes(2, "big") + bytes(128) + b"\xff" * 128
    body = b"\x04" + bytes(4) + b"\x01" + modulus + b"\0\x11\1\0\1"
    with pytest.raises(KeyTooSmall, match="1024 bits"):
        usable_keyring(b"\xc6\xff" + len(body).to_bytes(4, "big") + body, NOW)


@pytest.mark.parametrize("name", ["ubuntu-cloudimage", "ubuntu"])
def test_a_shipped_keyring_has_a_name_and_its_keys_are_usable(name: str) -> None:
    keyring = shipped_keyring(name)
    assert key_ids(keyring) == DEFAULT_KEY_IDS
    assert [key.problem for key in judge(keyring, NOW)] == ["", ""]
    assert usable_keyring(keyring, NOW) == keyring


@pytest.mark.parametrize("name", ["debian", "", "../ubuntu"])
def test_another_name_is_no_shipped_keyring(name: str) -> None:
    with pytest.raises(InvalidValue, match="there are ubuntu-cloudimage and ubuntu"):
        shipped_keyring(name)


def test_a_shipped_keyring_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changed = tmp_path / "keyring.gpg"
    monkeypatch.setattr(keys, "DEFAULT_KEYRING", changed)
    with pytest.raises(InvalidKeyring, match="is not on this machine"):
        shipped_keyring("ubuntu")
    changed.write_bytes(generate().keyring)
    with pytest.raises(InvalidKeyring, match="was changed on this machine"):
        shipped_keyring("ubuntu")


def test_the_shipped_keyring_is_the_known_one_with_the_known_keys() -> None:
    shipped = DEFAULT_KEYRING.read_bytes()
    assert hashlib.sha256(shipped).hexdigest() == DEFAULT_KEYRING_SHA256
    assert key_ids(parse_keyring(shipped)) == DEFAULT_KEY_IDS
    assert DEFAULT_KEYRING_SHA256 in (Path(str(DEFAULT_KEYRING)).parent / "README.md").read_text()


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda ours, theirs: ours.keyring + theirs.keyring, id="binary"),
        pytest.param(lambda ours, theirs: base64.b64encode(ours.keyring + theirs.keyring), id="base64"),
        pytest.param(lambda ours, theirs: base64.encodebytes(ours.keyring + theirs.keyring), id="base64 in lines"),
        pytest.param(lambda ours, theirs: f"{ours.cert}\n{theirs.cert}".encode(), id="two armoured blocks"),
        pytest.param(
            lambda ours, theirs: f"old key\n{ours.cert}new key\n{theirs.cert}\n".replace("\n", "\r\n").encode(),
            id="armoured, with words between, CRLF",
        ),
        pytest.param(
            lambda ours, theirs: (
                armor(ours.keyring + theirs.keyring, ArmorKind.PublicKey)
                .replace("BLOCK-----\n", "BLOCK-----\nVersion: GnuPG v2\nComment:\n", 1)
                .encode()
            ),
            id="two keys in one block with headers",
        ),
        pytest.param(
            lambda ours, theirs: b"\xca\x03PGP" + ours.keyring + b"\xb0\x02\x00\x00" + theirs.keyring,
            id="marker and trust packets are left out",
        ),
    ],
)
def test_every_form_of_a_keyring_is_the_same_keys(
    ours: Signer, theirs: Signer, form: Callable[[Signer, Signer], bytes]
) -> None:
    parsed = parse_keyring(form(ours, theirs))
    assert parsed == ours.keyring + theirs.keyring
    assert key_ids(parsed) == (ours.key_id, theirs.key_id)


def without_last_lines(armoured: object) -> bytes:
    return str(armoured).encode()[:-60]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(lambda _: b"", "empty", id="empty"),
        pytest.param(lambda _: b" \n", "empty", id="white space"),
        pytest.param(lambda _: b"hello, world", "neither binary", id="words"),
        pytest.param(lambda _: b"aGVsbG8=", "not OpenPGP data", id="base64 of something else"),
        pytest.param(lambda _: b"\xff\xfe\x00\x01", "cut off|no definite length", id="binary of something else"),
        pytest.param(lambda _: b"\x00\x00\x00\x20\x01\x01\x00\x02KBXf\x00", "gpg --export", id="keybox"),
        pytest.param(lambda _: b"\0" * (1024 * 1024 + 1), "larger than 1.0 MB", id="too large"),
        pytest.param(lambda ours: ours.keyring[:-5], "cut off", id="cut off"),
        pytest.param(lambda ours: without_last_lines(ours.cert), "damaged or cut off", id="armour cut off"),
        pytest.param(lambda ours: bytes(ours.secret), "secret key", id="secret key"),
        pytest.param(lambda ours: str(ours.secret).encode(), "secret key", id="armoured secret key"),
        pytest.param(lambda ours: base64.b64encode(bytes(ours.secret)), "secret key", id="secret key in base64"),
        pytest.param(lambda ours: ours.sign(), "damaged|more than public keys", id="a signed document"),
        pytest.param(lambda ours: signature_packets(ours.sign()), "does not begin with", id="a signature"),
        pytest.param(lambda _: LITERAL, "more than public keys", id="a text"),
        pytest.param(lambda _: b"\xc6\xe3" + b"x" * 10, "no definite length", id="a packet of partial length"),
        pytest.param(lambda _: b"\x9b" + b"x" * 10, "no definite length", id="a packet without end"),
        pytest.param(lambda _: b"\xc6\x01\x04", "version 4", id="a key without material"),
        pytest.param(
            lambda _: bytes(Tsk.generate(user_ids=["v6"], profile=Profile.RFC9580).extract_certificate()),
            "version 6",
            id="a key of RFC 9580, which gpgv does not know",
        ),
    ],
)
def test_what_is_no_keyring_is_refused_with_what_to_do(ours: Signer, raw: Callable[[Signer], bytes], says: str) -> None:
    with pytest.raises(InvalidKeyring, match=says):
        parse_keyring(raw(ours))
