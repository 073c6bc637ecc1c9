"""OpenPGP: clear-signed bytes and a keyring to the text that was signed, or an error. gpgv decides.

Only what gpgv emitted is returned, never the download itself. gpgv's exit status says nothing (0 for expired and
revoked keys and for SHA-1, 2 for a good signature beside an unknown one): the status lines do (GnuPG, doc/DETAILS). Its
parsers are also kept away from what a stream never holds: before gpgv runs, the document must be exactly one
clear-signed text (RFC 9580, section 7) with nothing around it and nothing but signatures in its armour.
"""

import asyncio
import os
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from region.stream.keys import key_ids, parse_keyring, unfit
from region.stream.packets import ARMOUR, SIGNATURE, Malformed, from_base64, packets_of
from shared.errors import (
    BadSignature,
    InvalidDocument,
    InvalidKeyring,
    SignatureExpired,
    SignatureKeyRevoked,
    SignatureWeak,
    TooLarge,
    Unavailable,
    UnknownSigner,
    Unsigned,
)

MAX_SIGNED_BYTES = 33 * 1024 * 1024
MAX_SIGNATURE_BYTES = 64 * 1024
GPGV_MAX_LINE_BYTES = 19_998
"""gpgv cuts longer lines of a clear-signed text off and finds it changed: whoever signs JSON breaks it into lines."""
GPGV_TIMEOUT_S = 60.0
_MAX_STATUS_BYTES = 256 * 1024
_CHUNK_BYTES = 256 * 1024

_BEGIN_TEXT = b"-----BEGIN PGP SIGNED MESSAGE-----"
_BEGIN_SIGNATURE = b"\n-----BEGIN PGP SIGNATURE-----"
# Only Hash may be there: NotDashEscaped, GnuPG's own, changes what the text is.
_HEAD = re.compile(
    rb"-----BEGIN PGP SIGNED MESSAGE-----[ \t]*\r?\n(?:Hash: ?[A-Za-z0-9, -]{1,200}\r?\n){0,16}[ \t]*\r?\n"
)
# RFC 9580, section 9.5: hash algorithms. MD5, SHA-1 and RIPEMD-160 (1, 2, 3) are the ones gpgv knows and we refuse.
_STRONG_HASHES = frozenset({"8", "9", "10", "11", "12", "14"})

# GnuPG, doc/DETAILS: gpgv says exactly one of `_GOOD` and the first five of each signature; the others are readings of
# ours.
_WHY: dict[str, tuple[type[BadSignature], str]] = {
    "BADSIG": (BadSignature, "the text was changed after the key {} signed it"),
    "EXPSIG": (SignatureExpired, "it has expired"),
    "EXPKEYSIG": (SignatureExpired, "the key {} that made it has expired, and the keyring needs the mirror's new one"),
    "REVKEYSIG": (
        SignatureKeyRevoked,
        "the key {} that made it was revoked, and the keyring needs the mirror's new one",
    ),
    "ERRSIG": (BadSignature, "gpgv cannot check what the key {} made"),
    "WEAKSIG": (SignatureWeak, "the key {} made it with a hash that can be forged (MD5, SHA-1 or RIPEMD-160)"),
}
_GOOD, _UNKNOWN, _UNFIT = "GOODSIG", "UNKNOWN", "UNFIT"
_WORDS = (_GOOD, *_WHY)
_CONFUSION = frozenset({"NODATA", "UNEXPECTED", "ERROR", "BADARMOR"})
_RC_NO_PUBLIC_KEY = "9"


class Verified(NamedTuple):
    """A text, and who vouches for it."""

    text: bytes
    """As gpgv emitted it."""
    signers: tuple[str, ...]
    """The fingerprints of the primary keys of all good signatures: 40 capital hexadecimal digits each, at least one."""
    notes: tuple[str, ...]
    """A sentence about each other signature, which counts for nothing."""


class _Signature(NamedTuple):
    """What gpgv says of one signature, the id of the key that made it, and whose key that is when it is good."""

    word: str
    key_id: str
    signer: str = ""


async def verify(signed: bytes, keyring: bytes, *, origin: str) -> Verified:
    """The text that a live key of `keyring` signed, as gpgv emitted it: use this and forget `signed`.

    - One good signature is enough; what is wrong with others beside it is in the notes: unknown, expired, revoked or
      unfit keys, weak hashes. One that does not fit the text refuses the document.
    - Dashes are unescaped, white space at line ends is gone: neither was ever signed.
    - Nothing signed by a key, or a subkey, that is too small or of a refused kind counts, whoever stands behind it.

    `keyring` is anything `parse_keyring` takes; `origin` names the document in errors.

    Raises Unsigned, UnknownSigner, BadSignature, SignatureExpired, SignatureKeyRevoked, SignatureWeak, InvalidKeyring
    (KeyTooSmall and KeyAlgorithmRefused of a key that signed), TooLarge (over 33 MiB), Unavailable (no gpgv here).
    """
    if len(signed) > MAX_SIGNED_BYTES:
        raise TooLarge(origin, MAX_SIGNED_BYTES)
    trusted, keys, refused = await asyncio.to_thread(_keys, keyring)
    await asyncio.to_thread(_require_clear_signed, signed, origin)
    text, status = await _run_gpgv(signed, trusted)
    if len(text) > len(signed) or len(status) > _MAX_STATUS_BYTES:
        raise BadSignature(origin, "gpgv makes more of it than there is")
    signatures = _signatures(status, keys, refused, origin)
    signers = tuple(dict.fromkeys(signature.signer for signature in signatures if signature.word == _GOOD))
    others = [signature for signature in signatures if signature.word != _GOOD]
    others.sort(key=lambda signature: signature.word != "BADSIG")
    if others and others[0].word == "BADSIG":
        if await asyncio.to_thread(_longest_line_bytes, signed) > GPGV_MAX_LINE_BYTES:
            raise BadSignature(origin, f"gpgv reads lines up to {GPGV_MAX_LINE_BYTES} bytes and it has a longer one")
    elif signers:
        return Verified(text, signers, tuple(_note(signature, refused, origin) for signature in others))
    for signature in others:
        if signature.word in _WHY:
            kind, why = _WHY[signature.word]
            raise kind(origin, why.format(signature.key_id))
        if signature.word == _UNFIT:
            raise refused[signature.key_id]
    raise UnknownSigner(origin, others[0].key_id, keys)


def _keys(keyring: bytes) -> tuple[bytes, tuple[str, ...], Mapping[str, InvalidKeyring]]:
    """The keyring for gpgv, its primary keys, and which of its keys are unfit. A large one takes a second."""
    trusted = parse_keyring(keyring)
    return trusted, key_ids(trusted), unfit(trusted)


def _note(signature: _Signature, refused: Mapping[str, InvalidKeyring], origin: str) -> str:
    if signature.word == _UNKNOWN:
        return f"{origin} is also signed by key {signature.key_id}, which the keyring does not hold."
    if signature.word == _UNFIT:
        return f"{origin} is also signed by a key that does not count: {refused[signature.key_id]}"
    return f"Another signature of {origin} does not count: {_WHY[signature.word][1].format(signature.key_id)}."


_NO_DOCUMENT = {
    b"<": "a web page came in its place; is a log-in page, or a proxy, in the way",
    b"\x1f\x8b": "it came compressed, which nobody had asked for; mend the mirror",
}
"""What servers send in place of a document, by its first bytes."""


def _require_clear_signed(signed: bytes, origin: str) -> None:
    """Raises BadSignature or Unsigned unless `signed` is exactly one clear-signed text with at least one signature.

    Raises InvalidDocument for what is no document at all: nobody should declare a source unsigned for that.
    """
    if not signed.startswith(_BEGIN_TEXT):
        for beginning, why in _NO_DOCUMENT.items():
            if signed[:256].lstrip().startswith(beginning):
                raise InvalidDocument(origin, why)
        if _BEGIN_TEXT in signed:
            raise BadSignature(origin, "there is unsigned text before the signed one")
        if b"-----BEGIN PGP MESSAGE-----" in signed[:4096] or signed[:1] >= b"\x80":
            raise BadSignature(origin, "it is an OpenPGP message and should be a clear-signed text")
        raise Unsigned(origin)
    head = _HEAD.match(signed)
    if head is None:
        raise BadSignature(origin, "the head of the signed text is damaged, or says more than its hash")
    text_at = head.end() - 1  # with the line end before it
    armour_at = signed.find(_BEGIN_SIGNATURE, text_at)
    # In the text every line that begins with a dash is escaped as "- -" (section 7.1): an unescaped one is a frame.
    text = (text_at, armour_at)
    if armour_at == -1 or signed.count(b"\n-", *text) != signed.count(b"\n- ", *text):
        raise BadSignature(origin, "it is cut off, or its signed text is damaged")
    _require_signatures(signed[armour_at + 1 :], origin)


def _require_signatures(armour: bytes, origin: str) -> None:
    if len(armour) > MAX_SIGNATURE_BYTES:
        raise BadSignature(origin, "there is unsigned text after the signed one, or its signature is endless")
    block = ARMOUR.match(armour)
    if block is None:
        raise BadSignature(origin, "its signature is cut off or damaged")
    if armour[block.end() :].strip():
        raise BadSignature(origin, "there is unsigned text after the signed one")
    try:
        tags = {packet.tag for packet in packets_of(from_base64(block[2]))}
    except Malformed:
        tags = set()
    if tags != {SIGNATURE}:
        raise BadSignature(origin, "its signature is damaged, or holds more than signatures")


def _signatures(status: bytes, trusted: tuple[str, ...], refused: Collection[str], origin: str) -> list[_Signature]:
    """What gpgv said of each signature, at least one."""
    # Notations are signed bytes of any kind: not all of a status line need be UTF-8.
    lines = [line.decode("utf-8", "replace").split(" ")[1:] for line in status.split(b"\n") if line[:8] == b"[GNUPG:]"]
    said: list[dict[str, list[str]]] = []
    for keyword, *arguments in lines:
        if keyword == "NEWSIG":
            said.append({})
        elif said:
            said[-1].setdefault(keyword, arguments)
    keywords = [keyword for keyword, *_ in lines]
    if not said or keywords.count("PLAINTEXT") != 1 or not _CONFUSION.isdisjoint(keywords):
        raise BadSignature(origin, "gpgv cannot make sense of it")
    return [_read_signature(lines_of_one, trusted, refused) for lines_of_one in said]


def _read_signature(said: dict[str, list[str]], trusted: tuple[str, ...], refused: Collection[str]) -> _Signature:
    words = [word for word in _WORDS if word in said]
    if len(words) != 1:
        return _Signature("ERRSIG", "unknown")
    word, arguments = words[0], said[words[0]]
    key_id = arguments[0]
    if word == "ERRSIG":
        # <keyid> <pkalgo> <hashalgo> <sig_class> <time> <rc> [<fpr>]
        key_id = arguments[6] if len(arguments) > 6 and arguments[6] != "-" else key_id
        return _Signature(_UNKNOWN if arguments[5:6] == [_RC_NO_PUBLIC_KEY] else word, key_id)
    if word != _GOOD:
        return _Signature(word, key_id)
    # <fpr> <date> <timestamp> <expires> <version> <reserved> <pubkey-algo> <hash-algo> <class> <primary-key-fpr>
    valid = said.get("VALIDSIG", [])
    if len(valid) < 10 or valid[8] not in ("00", "01") or valid[9] not in trusted:
        return _Signature("ERRSIG", key_id)
    if valid[7] not in _STRONG_HASHES:
        return _Signature("WEAKSIG", key_id)
    for used in (valid[9], valid[0]):
        if used in refused:
            return _Signature(_UNFIT, used)
    return _Signature(_GOOD, key_id, signer=valid[9])


def _longest_line_bytes(signed: bytes) -> int:
    return max(map(len, signed.split(b"\n")))


async def _run_gpgv(signed: bytes, keyring: bytes) -> tuple[bytes, bytes]:
    """What gpgv emits as the signed text, and its status lines. Its verdict is in the latter alone."""
    # A few kilobytes into the page cache: a thread would leave the directory behind when cancelled.
    with tempfile.TemporaryDirectory(prefix="bootferry-gpgv-") as home:
        path = _write_private(Path(home, "keyring.gpg"), keyring)
        try:
            process = await asyncio.create_subprocess_exec(
                "gpgv",
                *("--homedir", home, "--keyring", path, "--log-file", os.devnull, "--status-fd", "2", "--output", "-"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), "HOME": home, "GNUPGHOME": home},
            )
        except OSError as error:
            raise Unavailable(
                "There is no gpgv on this machine: install the system package gpgv", retry_after=60
            ) from error
        assert process.stdin and process.stdout and process.stderr  # noqa: S101 - all three were asked for
        try:
            async with asyncio.timeout(GPGV_TIMEOUT_S), asyncio.TaskGroup() as group:
                group.create_task(_feed(process.stdin, signed))
                text = group.create_task(_read(process.stdout, len(signed)))
                status = group.create_task(_read(process.stderr, _MAX_STATUS_BYTES))
            await process.wait()
        except TimeoutError as error:
            raise Unavailable(f"gpgv took longer than {GPGV_TIMEOUT_S:g} seconds over a signature") from error
        finally:
            if process.returncode is None:
                process.kill()
                # Reading on to the end: asyncio waits for the pipes, not only for the process.
                await process.communicate()
        return text.result(), status.result()


def _write_private(path: Path, content: bytes) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return str(path)


async def _feed(stream: asyncio.StreamWriter, content: bytes) -> None:
    try:
        for start in range(0, len(content), _CHUNK_BYTES):
            stream.write(memoryview(content)[start : start + _CHUNK_BYTES])
            await stream.drain()
    except (BrokenPipeError, ConnectionResetError):
        # gpgv made up its mind before the end; the status lines say how.
        return
    finally:
        stream.close()


async def _read(stream: asyncio.StreamReader, cap: int) -> bytes:
    """All of `stream`; one byte more than `cap` says that there was more."""
    collected = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        collected += chunk[: cap + 1 - len(collected)]
    return bytes(collected)
