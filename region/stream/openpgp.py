"""OpenPGP: clear-signed bytes and a keyring to the text that was signed, or an error. gpgv decides.

Only what gpgv emitted is returned, never the download itself. gpgv's exit status says nothing (0 for expired and
revoked keys and for SHA-1, 2 for a good signature beside an unknown one): the status lines do (GnuPG, doc/DETAILS). Its
parsers are also kept away from what a stream never holds: before gpgv runs, the document must be exactly one
clear-signed text (RFC 9580, section 7) with nothing around it and nothing but signatures in its armour.
"""

import asyncio
import base64
import binascii
import hashlib
import importlib.resources
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from shared.errors import BadSignature, InvalidKeyring, TooLarge, Unavailable, UnknownSigner, Unsigned
from shared.sizes import spoken_size

DEFAULT_KEYRING: Final = importlib.resources.files("region.stream") / "keyrings" / "ubuntu-cloudimage-keyring.gpg"
"""The keys of images.maas.io: `DEFAULT_KEYRING.read_bytes()`."""
DEFAULT_KEYRING_SHA256: Final = "c2d40d925557dbe9a0745c12ca0dc98bed593ce9a6652f1b2faa1ff0858dbf2f"
DEFAULT_KEY_IDS: Final = (
    "D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81",
    "4A3CE3CD565D7EB5C810E2B97FF3F408476CF100",
)
"""Both keys in it: the UEC Image Automatic Signing Key of 2009 and the Ubuntu Cloud Image Builder of 2012."""

MAX_SIGNED_BYTES = 65 * 1024 * 1024
MAX_KEYRING_BYTES = 1024 * 1024
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
_ARMOUR = re.compile(
    rb"-----BEGIN PGP ([A-Z ]{1,40})-----[ \t\r]*\n"
    rb"(?:[A-Za-z-]{1,40}:[^\n]*\n)*"  # headers
    rb"[ \t\r]*\n"
    rb"([A-Za-z0-9+/=\s]*?)"
    rb"(?:\n=[A-Za-z0-9+/]{4}\s*)?"  # a checksum: RFC 9580, section 6.1 says not to look at it
    rb"-----END PGP \1-----"
)

# RFC 9580, section 5: packet types.
_SIGNATURE, _SECRET_KEY, _PUBLIC_KEY, _SECRET_SUBKEY, _MARKER, _TRUST, _USER_ID = 2, 5, 6, 7, 10, 12, 13
_PUBLIC_SUBKEY, _USER_ATTRIBUTE = 14, 17
_CERTIFICATE_PACKETS = frozenset({_SIGNATURE, _PUBLIC_KEY, _USER_ID, _PUBLIC_SUBKEY, _USER_ATTRIBUTE})
# RFC 9580, section 9.5: hash algorithms. MD5, SHA-1 and RIPEMD-160 (1, 2, 3) are the ones gpgv knows and we refuse.
_STRONG_HASHES = frozenset({"8", "9", "10", "11", "12", "14"})

# GnuPG, doc/DETAILS: gpgv says exactly one of the first six of each signature; the last two are readings of ours.
_WHY = {
    "GOODSIG": "",
    "EXPSIG": "it has expired",
    "EXPKEYSIG": "the key {} that made it has expired, and the keyring needs the mirror's new one",
    "REVKEYSIG": "the key {} that made it was revoked, and the keyring needs the mirror's new one",
    "BADSIG": "the text was changed after the key {} signed it",
    "ERRSIG": "gpgv cannot check what the key {} made",
    "WEAKSIG": "the key {} made it with a hash that can be forged (MD5, SHA-1 or RIPEMD-160)",
    "UNKNOWN": "",
}
_CONFUSION = frozenset({"NODATA", "UNEXPECTED", "ERROR", "BADARMOR"})
_RC_NO_PUBLIC_KEY = "9"


class _Packet(NamedTuple):
    """One OpenPGP packet: its type, its body, and header and body as they stood."""

    tag: int
    body: bytes
    raw: bytes


class _Signature(NamedTuple):
    """What gpgv says of one signature: a word of `_WHY`, and the id of the key that made it."""

    word: str
    key_id: str


class _Malformed(ValueError):
    """Bytes are not whole OpenPGP packets or armour; the text completes a sentence."""


async def verify(signed: bytes, keyring: bytes, *, origin: str) -> bytes:
    """The text that a live key of `keyring` signed, as gpgv emitted it: use this and forget `signed`.

    One good signature is enough; signatures by unknown, expired or revoked keys beside it change nothing, one that does
    not fit the text refuses it. Dashes are unescaped, white space at line ends is gone: neither was ever signed.
    `keyring` is anything `parse_keyring` takes; `origin` names the document in errors.

    Raises Unsigned, UnknownSigner, BadSignature, InvalidKeyring, TooLarge (over 65 MiB), Unavailable (no gpgv here).
    """
    if len(signed) > MAX_SIGNED_BYTES:
        raise TooLarge(origin, MAX_SIGNED_BYTES)
    trusted = parse_keyring(keyring)
    await asyncio.to_thread(_require_clear_signed, signed, origin)
    text, status = await _run_gpgv(signed, trusted)
    if len(text) > len(signed) or len(status) > _MAX_STATUS_BYTES:
        raise BadSignature(origin, "gpgv makes more of it than there is")
    signatures = _signatures(status, key_ids(trusted), origin)
    words = {signature.word for signature in signatures}
    if "GOODSIG" in words and "BADSIG" not in words:
        return text
    if "BADSIG" in words and await asyncio.to_thread(_longest_line_bytes, signed) > GPGV_MAX_LINE_BYTES:
        raise BadSignature(origin, f"gpgv reads lines up to {GPGV_MAX_LINE_BYTES} bytes and it has a longer one")
    for signature in sorted(signatures, key=lambda signature: signature.word != "BADSIG"):
        if why := _WHY[signature.word].format(signature.key_id):
            raise BadSignature(origin, why)
    raise UnknownSigner(origin, signatures[0].key_id, key_ids(trusted))


def parse_keyring(raw: bytes) -> bytes:
    """The public keys in `raw` as gpgv wants them: binary, one after the other, nothing else.

    Takes binary, ASCII armour (several blocks, text between them), or binary in base64. Raises InvalidKeyring.
    """
    if len(raw) > MAX_KEYRING_BYTES:
        raise InvalidKeyring(f"it is larger than {spoken_size(MAX_KEYRING_BYTES)}")
    try:
        packets = [packet for block in _blocks(raw) for packet in _packets(block)]
    except _Malformed as error:
        raise InvalidKeyring(str(error)) from error
    kept = [packet for packet in packets if packet.tag not in (_MARKER, _TRUST)]
    for packet in kept:
        if packet.tag in (_SECRET_KEY, _SECRET_SUBKEY):
            raise InvalidKeyring("it holds a secret key; export the public key alone (gpg --export)")
        if packet.tag not in _CERTIFICATE_PACKETS:
            raise InvalidKeyring(f"it holds more than public keys (an OpenPGP packet of type {packet.tag})")
    if not kept:
        raise InvalidKeyring("it is empty")
    if kept[0].tag != _PUBLIC_KEY:
        raise InvalidKeyring("it does not begin with a public key")
    _fingerprints(kept)
    return b"".join(packet.raw for packet in kept)


def key_ids(keyring: bytes) -> tuple[str, ...]:
    """The fingerprints of the primary keys in a parsed keyring: 40 capital hexadecimal digits each, in its order."""
    return _fingerprints(_packets(keyring))


def _fingerprints(packets: list[_Packet]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for packet in packets:
        if packet.tag != _PUBLIC_KEY:
            continue
        version = packet.body[0] if packet.body else 0
        if version != 4 or not 6 < len(packet.body) <= 0xFFFF:
            raise InvalidKeyring(f"it holds a key of version {version}, and gpgv takes version 4 (RFC 4880) alone")
        # RFC 9580, section 5.5.4.2.
        content = b"\x99" + len(packet.body).to_bytes(2, "big") + packet.body
        found[hashlib.sha1(content, usedforsecurity=False).hexdigest().upper()] = None
    return tuple(found)


def _blocks(raw: bytes) -> Iterator[bytes]:
    """The binary OpenPGP data in `raw`."""
    if not raw.strip():
        return
    if raw[0] & 0x80:
        yield raw
    elif raw[8:12] == b"KBXf":
        raise _Malformed("it is a keybox, GnuPG's own database; export the keys from it (gpg --export)")
    elif b"-----BEGIN PGP" in raw:
        blocks = list(_ARMOUR.finditer(raw))
        if len(blocks) != raw.count(b"-----BEGIN PGP"):
            raise _Malformed("a block of its ASCII armour is damaged or cut off")
        for block in blocks:
            if block[1] == b"PRIVATE KEY BLOCK":
                raise _Malformed("it holds a secret key; export the public key alone (gpg --armor --export)")
            yield _from_base64(block[2])
    else:
        yield _from_base64(raw)


def _from_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise _Malformed("it is neither binary, nor ASCII armour, nor base64") from None


def _packets(data: bytes) -> list[_Packet]:
    """`data` as OpenPGP packets (RFC 9580, section 4.2). Raises _Malformed."""
    packets: list[_Packet] = []
    start = 0
    while start < len(data):
        tag, header, length = _packet_header(data, start)
        end = start + header + length
        if end > len(data):
            raise _Malformed("an OpenPGP packet in it is cut off")
        packets.append(_Packet(tag, data[start + header : end], data[start:end]))
        start = end
    return packets


def _packet_header(data: bytes, start: int) -> tuple[int, int, int]:
    """The packet's type, and how many bytes its header and its body have."""
    first, rest = data[start], data[start + 1 : start + 6]
    if not first & 0x80:
        raise _Malformed("it is not OpenPGP data")
    if not first & 0x40:
        tag, width = first >> 2 & 0x0F, (1, 2, 4, 0)[first & 3]
    elif rest[:1] < b"\xc0":
        tag, width = first & 0x3F, 1
    elif rest[:1] < b"\xe0" and len(rest) > 1:
        return first & 0x3F, 3, (rest[0] - 192 << 8) + rest[1] + 192
    elif rest[:1] == b"\xff":
        return first & 0x3F, 6, int.from_bytes(rest[1:5], "big")
    else:
        tag, width = 0, 0
    if not width or len(rest) < width:
        raise _Malformed("an OpenPGP packet in it has no definite length")
    return tag, 1 + width, int.from_bytes(rest[:width], "big")


def _require_clear_signed(signed: bytes, origin: str) -> None:
    """Returning says: `signed` is one clear-signed text with at least one signature, and nothing else at all."""
    if not signed.startswith(_BEGIN_TEXT):
        if _BEGIN_TEXT in signed:
            raise BadSignature(origin, "there is unsigned text before the signed one")
        if b"-----BEGIN PGP MESSAGE-----" in signed[:4096] or signed[:1] >= b"\x80":
            raise BadSignature(origin, "it is an OpenPGP message and should be a clear-signed text")
        raise Unsigned(origin)
    head = _HEAD.match(signed)
    if head is None:
        raise BadSignature(origin, "the head of the signed text is damaged, or says more than its hash")
    armour_at = signed.find(_BEGIN_SIGNATURE, head.end() - 1)
    # In the text every line that begins with a dash is escaped as "- -" (section 7.1): an unescaped one is a frame.
    text = (head.end() - 1, armour_at)
    if armour_at < 0 or signed.count(b"\n-", *text) != signed.count(b"\n- ", *text):
        raise BadSignature(origin, "it is cut off, or its signed text is damaged")
    _require_signatures(signed[armour_at + 1 :], origin)


def _require_signatures(armour: bytes, origin: str) -> None:
    if len(armour) > MAX_SIGNATURE_BYTES:
        raise BadSignature(origin, "there is unsigned text after the signed one, or its signature is endless")
    block = _ARMOUR.match(armour)
    if block is None:
        raise BadSignature(origin, "its signature is cut off or damaged")
    if armour[block.end() :].strip():
        raise BadSignature(origin, "there is unsigned text after the signed one")
    try:
        tags = {packet.tag for packet in _packets(_from_base64(block[2]))}
    except _Malformed:
        tags = set()
    if tags != {_SIGNATURE}:
        raise BadSignature(origin, "its signature is damaged, or holds more than signatures")


def _signatures(status: bytes, trusted: tuple[str, ...], origin: str) -> list[_Signature]:
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
    return [_read_signature(lines_of_one, trusted) for lines_of_one in said]


def _read_signature(said: dict[str, list[str]], trusted: tuple[str, ...]) -> _Signature:
    words = [word for word in _WHY if word in said]
    if len(words) != 1:
        return _Signature("ERRSIG", "unknown")
    word, arguments = words[0], said[words[0]]
    key_id = arguments[0]
    if word == "ERRSIG":
        # <keyid> <pkalgo> <hashalgo> <sig_class> <time> <rc> [<fpr>]
        key_id = arguments[6] if len(arguments) > 6 and arguments[6] != "-" else key_id
        word = "UNKNOWN" if arguments[5:6] == [_RC_NO_PUBLIC_KEY] else word
    if word == "GOODSIG":
        # <fpr> <date> <timestamp> <expires> <version> <reserved> <pubkey-algo> <hash-algo> <class> <primary-key-fpr>
        valid = said.get("VALIDSIG", [])
        if len(valid) < 10 or valid[8] not in ("00", "01") or valid[9] not in trusted:
            word = "ERRSIG"
        elif valid[7] not in _STRONG_HASHES:
            word = "WEAKSIG"
    return _Signature(word, key_id)


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
            raise Unavailable("gpgv (from the system package gpgv)", retry_after=60) from error
        assert process.stdin and process.stdout and process.stderr  # noqa: S101 - all three were asked for
        try:
            async with asyncio.timeout(GPGV_TIMEOUT_S), asyncio.TaskGroup() as group:
                group.create_task(_feed(process.stdin, signed))
                text = group.create_task(_read(process.stdout, len(signed)))
                status = group.create_task(_read(process.stderr, _MAX_STATUS_BYTES))
            await process.wait()
        except TimeoutError as error:
            raise Unavailable(f"gpgv (it took longer than {GPGV_TIMEOUT_S:g} seconds)") from error
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
