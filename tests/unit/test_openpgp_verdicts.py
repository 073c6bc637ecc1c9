"""What is made of each thing that gpgv may say, and which bytes it is asked about at all.

A program in its place says what it is told; `test_openpgp.py` asks the real one. Status lines are those of
GnuPG, doc/DETAILS.
"""

import asyncio
import gzip
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from region.stream import openpgp
from region.stream.openpgp import verify
from shared.errors import (
    BadSignature,
    BootferryError,
    InvalidDocument,
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
from tests.unit.openpgp_parts import clear_signed, fingerprint, packet, rsa_body

URL = "http://mirror.example/streams/v1/index.sjson"
ONE, TWO, SMALL, SUBKEY = rsa_body(2048), rsa_body(2049), rsa_body(1024), rsa_body(1032)
ID, ID_2, SMALL_ID, SUBKEY_ID = (fingerprint(body) for body in (ONE, TWO, SMALL, SUBKEY))
KEYRING = packet(6, ONE) + packet(14, SUBKEY) + packet(6, TWO) + packet(6, SMALL)
ELSE, ELSE_ID = "A" * 40, "A" * 16
SIGNED = clear_signed()
BEGIN = "-----BEGIN PGP MESSAGE-----"

GPGV = """#!/bin/sh
cat /proc/$$/environ > {told}/environment
printf '%s\\n' "$@" > {told}/arguments
cp -p "$4" {told}/keyring
ls "$2" > {told}/home
cat > {told}/signed
cat {told}/status >&2
cat {told}/text
"""


class Gpgv:
    """What the program in gpgv's place says, and what it was asked."""

    def __init__(self, told: Path) -> None:
        self.told = told
        self.says(good())

    def says(
        self, *signatures: Sequence[str], text: bytes = b"text\n", before: Sequence[str] = ("PLAINTEXT 74 0 ",)
    ) -> None:
        """Status lines of some signatures, each with its beginning, and the text."""
        lines = [*before, *(line for lines in signatures for line in ("NEWSIG", *lines))]
        self.prints("".join(f"[GNUPG:] {line}\n" for line in lines).encode(), text)

    def prints(self, status: bytes, text: bytes = b"text\n") -> None:
        (self.told / "status").write_bytes(status)
        (self.told / "text").write_bytes(text)


@pytest.fixture
def gpgv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpgv:
    program = tmp_path / "bin" / "gpgv"
    program.parent.mkdir()
    program.write_text(GPGV.format(told=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return Gpgv(tmp_path)


def good(
    primary: str = ID, *, by: str | None = None, digest: str = "10", signature_class: str = "01", fields: int = 10
) -> list[str]:
    """What gpgv says of a good signature by `by`, a key or subkey of `primary`."""
    valid = [by or primary, "2026-07-01", "1782864000", "0", "4", "0", "1", digest, signature_class, primary]
    return [f"KEY_CONSIDERED {primary} 0", f"GOODSIG {primary[-16:]} A name", "VALIDSIG " + " ".join(valid[:fields])]


def unknown(key_id: str = ELSE_ID, rest: str = f" {ELSE}") -> list[str]:
    return [f"ERRSIG {key_id} 1 10 01 1782864000 9{rest}", f"NO_PUBKEY {key_id}"]


async def refusal(signed: bytes = SIGNED, keyring: bytes = KEYRING) -> BootferryError:
    with pytest.raises((SignatureError, InvalidDocument, TooLarge)) as caught:
        await verify(signed, keyring, origin=URL)
    return caught.value


CHECKS_NOT = "gpgv cannot check what the key {} made"
FORGED = "the key {} made it with a hash that can be forged (MD5, SHA-1 or RIPEMD-160)"
RENEW = "and the keyring needs the mirror's new one"


@pytest.mark.parametrize(
    ("said", "kind", "why"),
    [
        pytest.param(
            ["BADSIG 0123 A name"], BadSignature, "the text was changed after the key 0123 signed it", id="another text"
        ),
        pytest.param(["EXPSIG 0123 A name"], SignatureExpired, "it has expired", id="an expired signature"),
        pytest.param(
            ["EXPKEYSIG 0123 A name"],
            SignatureExpired,
            f"the key 0123 that made it has expired, {RENEW}",
            id="an expired key",
        ),
        pytest.param(
            ["REVKEYSIG 0123 A name"],
            SignatureKeyRevoked,
            f"the key 0123 that made it was revoked, {RENEW}",
            id="a revoked key",
        ),
        pytest.param([f"ERRSIG 0123 1 10 01 0 4 {ELSE}"], BadSignature, CHECKS_NOT.format(ELSE), id="an error"),
        pytest.param(["ERRSIG 0123 1 10 01 0 4 -"], BadSignature, CHECKS_NOT.format("0123"), id="an error, no name"),
        pytest.param(["ERRSIG 0123 1 10 01 0 4"], BadSignature, CHECKS_NOT.format("0123"), id="an error, of before"),
        pytest.param(["ERRSIG 0123 1 10 01 0"], BadSignature, CHECKS_NOT.format("0123"), id="an error, no reason"),
        pytest.param([], BadSignature, CHECKS_NOT.format("unknown"), id="no word"),
        pytest.param(["SIG_ID x"], BadSignature, CHECKS_NOT.format("unknown"), id="no word that decides"),
        pytest.param(["WEAKSIG 0123"], SignatureWeak, FORGED.format("0123"), id="a word of ours"),
        *(
            pytest.param(
                [*good(), f"{word} 0123 A name"], BadSignature, CHECKS_NOT.format("unknown"), id=f"good and {word}"
            )
            for word in ("BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "ERRSIG")
        ),
        pytest.param(good()[:2], BadSignature, CHECKS_NOT.format(ID[-16:]), id="good and not valid"),
        pytest.param(good(fields=9), BadSignature, CHECKS_NOT.format(ID[-16:]), id="valid without the key"),
        pytest.param(good(fields=8), BadSignature, CHECKS_NOT.format(ID[-16:]), id="valid without its class"),
        pytest.param(good(fields=1), BadSignature, CHECKS_NOT.format(ID[-16:]), id="valid and nothing more"),
        pytest.param(good(ELSE), BadSignature, CHECKS_NOT.format(ELSE_ID), id="valid by a key that is not there"),
        pytest.param(good(SUBKEY_ID), BadSignature, CHECKS_NOT.format(SUBKEY_ID[-16:]), id="valid by a subkey alone"),
        *(
            pytest.param(good(signature_class=other), BadSignature, CHECKS_NOT.format(ID[-16:]), id=f"of class {other}")
            for other in ("", "0", "1", "02", "10", "1F", "40")
        ),
        *(
            pytest.param(good(digest=weak), SignatureWeak, FORGED.format(ID[-16:]), id=f"hash {weak}")
            for weak in ("0", "1", "2", "3", "4", "5", "6", "7", "13", "15", "110", "")
        ),
    ],
)
async def test_what_is_not_good_is_refused_with_why(
    gpgv: Gpgv, said: list[str], kind: type[BadSignature], why: str
) -> None:
    gpgv.says(said)
    refused = await refusal()
    assert isinstance(refused, BadSignature)
    assert (type(refused), refused.why) == (kind, why)


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        pytest.param(f" {ELSE}", ELSE, id="the fingerprint"),
        pytest.param(" -", ELSE_ID, id="no fingerprint"),
        pytest.param("", ELSE_ID, id="none said"),
    ],
)
async def test_an_unknown_key_is_named_as_well_as_it_is_known(gpgv: Gpgv, rest: str, named: str) -> None:
    gpgv.says(unknown(rest=rest), unknown("B" * 16, " " + "B" * 40))
    refused = await refusal()
    assert isinstance(refused, UnknownSigner)
    assert (refused.signed_by, refused.wanted) == (named, (ID, ID_2, SMALL_ID))


@pytest.mark.parametrize("digest", ["8", "9", "10", "11", "12", "14"])
@pytest.mark.parametrize("signature_class", ["00", "01"])
async def test_a_signature_with_a_strong_hash_is_good(gpgv: Gpgv, digest: str, signature_class: str) -> None:
    gpgv.says(good(digest=digest, signature_class=signature_class))
    assert await verify(SIGNED, KEYRING, origin=URL) == (b"text\n", (ID,), ())


async def test_what_gpgv_says_first_of_a_signature_counts(gpgv: Gpgv) -> None:
    gpgv.says([*good(), good(ELSE)[2]])
    assert (await verify(SIGNED, KEYRING, origin=URL)).signers == (ID,)
    gpgv.says([*good(fields=3), good()[2]])
    assert isinstance(await refusal(), BadSignature)


@pytest.mark.parametrize(
    ("primary", "by"),
    [pytest.param(ID, SUBKEY_ID, id="a small subkey"), pytest.param(SMALL_ID, SMALL_ID, id="a small key")],
)
async def test_a_key_that_is_unfit_signs_nothing(gpgv: Gpgv, primary: str, by: str) -> None:
    gpgv.says(good(primary, by=by))
    refused = await refusal()
    assert isinstance(refused, KeyTooSmall)
    assert refused.fingerprint == by
    # Behind an unknown one, too.
    gpgv.says(unknown(), good(primary, by=by))
    assert isinstance(await refusal(), KeyTooSmall)


async def test_nothing_that_an_unfit_primary_key_stands_behind_counts(gpgv: Gpgv) -> None:
    gpgv.says(good(SMALL_ID, by=ID_2))
    refused = await refusal()
    assert isinstance(refused, KeyTooSmall)
    assert refused.fingerprint == SMALL_ID


async def test_signers_are_named_once_in_their_order_and_all_others_noted_in_theirs(gpgv: Gpgv) -> None:
    gpgv.says(
        unknown(),
        good(ID_2),
        good(ID, by=SUBKEY_ID),
        ["EXPSIG 0123 A name"],
        good(ID),
        good(ID_2),
        ["EXPKEYSIG 4567 A name"],
        good(digest="2"),
    )
    verified = await verify(SIGNED, KEYRING, origin=URL)
    assert verified.signers == (ID_2, ID)
    small = str(KeyTooSmall(SUBKEY_ID, 1032, 2048))
    assert verified.notes == (
        f"{URL} is also signed by key {ELSE}, which the keyring does not hold.",
        f"{URL} is also signed by a key that does not count: {small}",
        f"Another signature of {URL} does not count: it has expired.",
        f"Another signature of {URL} does not count: the key 4567 that made it has expired, {RENEW}.",
        f"Another signature of {URL} does not count: {FORGED.format(ID[-16:])}.",
    )


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([["BADSIG 0123 A name"]], id="alone"),
        pytest.param([good(), ["BADSIG 0123 A name"]], id="after a good one"),
        pytest.param([["EXPSIG 4567 A name"], ["BADSIG 0123 A name"], unknown()], id="in the middle"),
        pytest.param([unknown(), good(), ["BADSIG 0123 A name"], ["EXPSIG 4567 A name"]], id="among many"),
    ],
)
async def test_a_signature_of_another_text_comes_first(gpgv: Gpgv, others: list[list[str]]) -> None:
    gpgv.says(*others)
    refused = await refusal()
    assert isinstance(refused, BadSignature)
    assert refused.why == "the text was changed after the key 0123 signed it"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        pytest.param([19_998], "the text was changed after the key 0123 signed it", id="the longest"),
        pytest.param(
            [9_999, 9_999, 9_999], "the text was changed after the key 0123 signed it", id="many shorter ones"
        ),
        pytest.param([5, 19_999, 5], "gpgv reads lines up to 19998 bytes and it has a longer one", id="longer"),
    ],
)
async def test_a_line_that_gpgv_cuts_off_is_told(gpgv: Gpgv, lines: list[int], why: str) -> None:
    gpgv.says(["BADSIG 0123 A name"])
    refused = await refusal(clear_signed(b"\n".join(b"x" * line for line in lines)))
    assert isinstance(refused, BadSignature)
    assert refused.why == why


async def test_the_first_reason_that_tells_something_is_told(gpgv: Gpgv) -> None:
    gpgv.says(unknown(), ["REVKEYSIG 0123 A name"], ["EXPSIG 0123 A name"])
    assert type(await refusal()) is SignatureKeyRevoked


def lines(*said: str) -> bytes:
    return "".join(f"[GNUPG:] {line}\n" for line in said).encode()


NONSENSE = "gpgv cannot make sense of it"


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(lines("PLAINTEXT 74 0 "), id="no signature"),
        pytest.param(lines("PLAINTEXT 74 0 ", *good()), id="a signature without a beginning"),
        pytest.param(lines("NEWSIG", *good()), id="no text"),
        pytest.param(lines("PLAINTEXT 74 0 ", "PLAINTEXT 74 0 ", "NEWSIG", *good()), id="two texts"),
        pytest.param(lines("PLAINTEXT 74 0 ", "NEWSIG", *good()).replace(b"[GNUPG:]", b"[GNUPG;]"), id="other lines"),
        *(
            pytest.param(lines("PLAINTEXT 74 0 ", "NEWSIG", *good(), f"{word} 1"), id=word)
            for word in ("NODATA", "UNEXPECTED", "ERROR", "BADARMOR")
        ),
        pytest.param(lines("NODATA 1", "PLAINTEXT 74 0 ", "NEWSIG", *good()), id="NODATA at the beginning"),
    ],
)
async def test_what_gpgv_cannot_make_sense_of_is_refused(gpgv: Gpgv, status: bytes) -> None:
    gpgv.prints(status)
    refused = await refusal()
    assert isinstance(refused, BadSignature)
    assert refused.why == NONSENSE


async def test_lines_of_another_kind_and_bytes_that_are_no_text_are_passed_over(gpgv: Gpgv) -> None:
    gpgv.prints(
        b"gpgv: NODATA 1\n\n[GNUPG:] NOTATION_DATA \xff\xfe\n"
        + lines("PLAINTEXT 74 0 ", "NEWSIG", *good(), "NOTATION_DATA x")
    )
    assert (await verify(SIGNED, KEYRING, origin=URL)).signers == (ID,)


async def test_gpgv_says_256_kib_at_most_and_no_more_text_than_was_signed(gpgv: Gpgv) -> None:
    said = lines("PLAINTEXT 74 0 ", "NEWSIG", *good())
    full = said + b"#" * (256 * 1024 - len(said))
    more = "gpgv makes more of it than there is"
    gpgv.prints(full, b"x" * len(SIGNED))
    assert (await verify(SIGNED, KEYRING, origin=URL)).text == b"x" * len(SIGNED)
    for status, text in [(full + b"#", b"x"), (said, b"x" * (len(SIGNED) + 1)), (said, b"x" * 600_000)]:
        gpgv.prints(status, text)
        refused = await refusal()
        assert isinstance(refused, BadSignature)
        assert refused.why == more


async def test_no_more_of_what_gpgv_says_is_kept_than_tells_that_it_is_too_much() -> None:
    said = asyncio.StreamReader()
    said.feed_data(b"x" * 700_000)
    said.feed_eof()
    assert await openpgp._read(said, 300_000) == b"x" * 300_001


async def test_gpgv_is_asked_alone_with_a_keyring_that_is_its_own(
    gpgv: Gpgv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("SECRET", "of the region")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    document = clear_signed(b"x\n" * 400_000)
    await verify(document, KEYRING, origin=URL)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    home = Path(arguments[1])
    assert (home.parent, home.name[:15]) == (scratch, "bootferry-gpgv-")
    keyring = str(home / "keyring.gpg")
    log = ["--log-file", "/dev/null"]
    assert arguments == ["--homedir", str(home), "--keyring", keyring, *log, "--status-fd", "2", "--output", "-"]
    environment = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().split("\0") if line)
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    assert environment == {"LC_ALL": "C", "PATH": path, "HOME": str(home), "GNUPGHOME": str(home)}
    assert (tmp_path / "signed").read_bytes() == document
    assert (tmp_path / "keyring").read_bytes() == KEYRING
    assert stat.S_IMODE((tmp_path / "keyring").stat().st_mode) == 0o600
    assert (tmp_path / "home").read_text() == "keyring.gpg\n"
    assert not list(scratch.iterdir())


async def test_a_gpgv_that_is_not_there_may_be_there_in_a_minute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        await verify(SIGNED, KEYRING, origin=URL)
    assert caught.value.retry_after == 60


def test_gpgv_may_take_a_minute() -> None:
    assert openpgp.GPGV_TIMEOUT_S == 60.0


# --- what gpgv is never asked about ------------------------------------------------------------------------------


async def test_a_document_has_33_mib_at_most() -> None:
    large = b"x" * (33 * 1024 * 1024)
    assert isinstance(await refusal(large), Unsigned)
    refused = await refusal(large + b"x")
    assert isinstance(refused, TooLarge)
    assert refused.cap == 33 * 1024 * 1024


async def test_a_signature_has_64_kib_at_most(gpgv: Gpgv) -> None:
    armour = SIGNED[SIGNED.index(b"-----BEGIN PGP SIGNATURE") :]
    whole = SIGNED + b" " * (64 * 1024 - len(armour))
    assert (await verify(whole, KEYRING, origin=URL)).signers == (ID,)
    refused = await refusal(whole + b" ")
    assert isinstance(refused, BadSignature)
    assert refused.why == "there is unsigned text after the signed one, or its signature is endless"


BEFORE = "there is unsigned text before the signed one"
AFTER = "there is unsigned text after the signed one"
MESSAGE = "it is an OpenPGP message and should be a clear-signed text"
HEAD = "the head of the signed text is damaged, or says more than its hash"
TEXT = "it is cut off, or its signed text is damaged"
ARMOUR = "its signature is cut off or damaged"
PACKETS = "its signature is damaged, or holds more than signatures"
PAGE = "a web page came in its place; is a log-in page, or a proxy, in the way"
COMPRESSED = "it came compressed, which nobody had asked for; mend the mirror"


@pytest.mark.parametrize(
    ("signed", "kind", "why"),
    [
        pytest.param(b"", Unsigned, "", id="nothing"),
        pytest.param(b"{}", Unsigned, "", id="JSON"),
        pytest.param(b" " * 255 + b"<html>", InvalidDocument, PAGE, id="a web page after 255 spaces"),
        pytest.param(b" " * 256 + b"<html>", Unsigned, "", id="a web page after 256 spaces"),
        pytest.param(b"<html>" + SIGNED, InvalidDocument, PAGE, id="a web page around a document"),
        pytest.param(gzip.compress(b"{}"), InvalidDocument, COMPRESSED, id="compressed"),
        pytest.param(b"\x1f\x8a", Unsigned, "", id="not compressed"),
        pytest.param(b"{}\n" + SIGNED, BadSignature, BEFORE, id="text before"),
        pytest.param(b"\x7f", Unsigned, "", id="the last that is no packet"),
        pytest.param(b"\x80", BadSignature, MESSAGE, id="the first that is a packet"),
        pytest.param(b"\xff", BadSignature, MESSAGE, id="the last that is a packet"),
        pytest.param(BEGIN.rjust(4096).encode(), BadSignature, MESSAGE, id="a message that begins within 4 KiB"),
        pytest.param(BEGIN.rjust(4097).encode(), Unsigned, "", id="a message that begins later"),
        pytest.param(SIGNED.replace(b"SHA512", b"S_A512"), BadSignature, HEAD, id="a head that is no list of hashes"),
        pytest.param(SIGNED.replace(b"SHA512", b"A" * 201), BadSignature, HEAD, id="a head of 201 letters"),
        pytest.param(SIGNED.replace(b"Hash: SHA512\n", b"Hash: A\n" * 17), BadSignature, HEAD, id="17 heads"),
        pytest.param(SIGNED.replace(b"Hash", b"Note"), BadSignature, HEAD, id="another head"),
        pytest.param(SIGNED[: SIGNED.index(b"\n-----BEGIN PGP SIG")], BadSignature, TEXT, id="cut in the text"),
        pytest.param(clear_signed(b"-a"), BadSignature, TEXT, id="a dash at the beginning that is not escaped"),
        pytest.param(clear_signed(b"a\n-"), BadSignature, TEXT, id="a dash at the end that is not escaped"),
        pytest.param(clear_signed(b"a\n-----BEGIN PGP SIGNED MESSAGE-----"), BadSignature, TEXT, id="a frame in it"),
        pytest.param(SIGNED.replace(b"END PGP", b"End PGP"), BadSignature, ARMOUR, id="a frame that does not end"),
        pytest.param(SIGNED.replace(b"END PGP SIGNATURE", b"END PGP MESSAGE"), BadSignature, ARMOUR, id="another end"),
        pytest.param(SIGNED.replace(b"wgEE", b"wg,E"), BadSignature, ARMOUR, id="armour that is no base64"),
        pytest.param(SIGNED + b"x", BadSignature, AFTER, id="a letter after it"),
        pytest.param(SIGNED + SIGNED, BadSignature, AFTER, id="a document after it"),
        pytest.param(clear_signed(packets=b""), BadSignature, PACKETS, id="no packet"),
        pytest.param(clear_signed(packets=b"\xc2\x02\x04"), BadSignature, PACKETS, id="a packet that is cut off"),
        pytest.param(clear_signed(packets=b"\xcb\x01b"), BadSignature, PACKETS, id="a text alone"),
        pytest.param(clear_signed(packets=b"\xc2\x01\x04\xcb\x01b"), BadSignature, PACKETS, id="a text beside it"),
    ],
)
async def test_what_is_not_one_clear_signed_text_never_reaches_gpgv(
    gpgv: Gpgv, signed: bytes, kind: type[Exception], why: str
) -> None:
    refused = await refusal(signed)
    assert (type(refused), getattr(refused, "why", "")) == (kind, why)
    assert not (gpgv.told / "signed").exists()


@pytest.mark.parametrize(
    "signed",
    [
        pytest.param(clear_signed(b""), id="no text"),
        pytest.param(SIGNED.replace(b"\nHash: SHA512\n\n", b"\n\n"), id="no hash"),
        pytest.param(
            SIGNED.replace(b"\nHash: SHA512\n\n", b"\n\n").replace(b'{"format": "index:1.0"}\n', b""), id="least"
        ),
        pytest.param(SIGNED.replace(b"SHA512", b"A" * 200), id="a head of 200 letters"),
        pytest.param(SIGNED.replace(b"Hash: SHA512\n", b"Hash: A\n" * 16), id="16 heads"),
        pytest.param(SIGNED.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(clear_signed(b"- -a\n- -----BEGIN PGP SIGNATURE-----\nx-y\n- "), id="dashes that are escaped"),
        pytest.param(clear_signed(packets=b"\xc2\x01\x04" * 3), id="three signatures"),
        pytest.param(clear_signed(padding=b" \r\n\t"), id="white space after it"),
    ],
)
async def test_every_clear_signed_text_does(gpgv: Gpgv, signed: bytes) -> None:
    assert (await verify(signed, KEYRING, origin=URL)).signers == (ID,)
    assert (gpgv.told / "signed").read_bytes() == signed
