"""Who this rack is, and which region it believes.

    <data_dir>/identity/rack.key      the rack's Ed25519 key (PEM, 0600); nothing else on the network knows it
    <data_dir>/identity/region.json   the region's address and key, this rack's id and name (0600)

`region.json` names the rack's key it was written for. An enrolment makes its key as `rack.key.new`, a renewal
(`rack.renewal`) as `rack.key.next`, and renames it after `region.json` is in place: between the two, the fingerprint
says which of the keys counts. Who changes `region.json` holds a lock on the directory. Whatever root writes here
belongs to whom the directory belongs to: an enrolment as root leaves a rack that its own user can start.

It keeps the certificates that the enrolment was told to trust for the region, and trusts them as long as it counts. It
also names the keys that the region had before: what this rack has kept since their time is still the region's word,
and none of them ever counts again (`follow`).
"""

import asyncio
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from yarl import URL

from shared.disk import make_directory, owner_of, read_document, sync_directory, write_whole
from shared.errors import (
    Conflict,
    HttpStatus,
    InvalidConfiguration,
    InvalidDocument,
    InvalidToken,
    InvalidValue,
    TokenExpired,
    TokenSpent,
    WrongRegion,
)
from shared.http import parse_url, read_capped, request, require_ok
from shared.logs import logger
from shared.names import Name
from shared.signing import encode_bytes, fingerprint, load_key, parse_public_key, private_pem, public_bytes
from shared.wire.correction import CORRECTION_HEADER, Correction
from shared.wire.enrolment import MAX_ENROLMENT_BYTES, Enrolment, EnrolmentRequest, EnrolmentToken
from shared.wire.envelope import MEDIA_TYPE
from shared.wire.succession import MAX_CHAIN_BYTES, MAX_SUCCESSIONS, Signed, parse_chain
from shared.wire.succession import follow as successors

MAX_REGION_BYTES = 64 * 1024

_log = logger(__name__)


@dataclass(slots=True)
class Identity:
    """An enrolled rack: `key` signs its requests as `rack_id`, `region_key` vouches for the region's manifests.

    `region_key` changes when the region rotates it (`follow`); `former` are those before it, oldest first.
    """

    region_url: URL
    region_key: Ed25519PublicKey
    rack_id: str
    name: Name
    key: Ed25519PrivateKey
    former: tuple[Ed25519PublicKey, ...] = ()
    ca_certificates: str = ""
    """Of CAs that may vouch for the region's address, in PEM; beside the system's."""


def parse_region_url(text: object) -> URL:
    """The region's base address, without a query and without a slash at its end. Raises InvalidValue."""
    url = parse_url(text).with_query(None)
    return url.with_path(url.raw_path.rstrip("/"), encoded=True)


def load(data_dir: Path) -> Identity:
    """The identity kept in `data_dir`.

    Raises InvalidConfiguration when there is none, InvalidDocument when it is spoilt.
    """
    directory = data_dir / "identity"
    try:
        document = read_document(directory / "region.json")
    except FileNotFoundError as error:
        raise InvalidConfiguration(
            "This rack is not enrolled; make a token on the region, then run"
            " 'bootferry-rack enrol --region URL' and paste it."
        ) from error
    try:
        return Identity(
            region_url=parse_region_url(document["region_url"]),
            region_key=parse_public_key(document["region_key"]),
            rack_id=str(document["rack_id"]),
            name=Name(document["name"]),
            key=_key(directory, str(document["rack_key_fingerprint"])),
            former=tuple(parse_public_key(text) for text in document.get("former_region_keys", ())),
            ca_certificates=str(document.get("ca_certificates", "")),
        )
    except KeyError as error:
        raise InvalidDocument(str(directory / "region.json"), f"the field {error} is missing") from error
    except InvalidValue as error:
        raise InvalidDocument(str(directory / "region.json"), str(error).rstrip(".")) from error


def _key(directory: Path, wanted: str) -> Ed25519PrivateKey:
    for path in (directory / name for name in ("rack.key", "rack.key.new", "rack.key.next")):
        if path.exists() and fingerprint(key := load_key(path)) == wanted:
            return key
    raise InvalidDocument(
        str(directory / "rack.key"), "it is missing or not the key this rack was enrolled with; enrol it with --again"
    )


async def enrol(
    session: aiohttp.ClientSession,
    data_dir: Path,
    region_url: URL,
    token: EnrolmentToken,
    name: Name,
    *,
    again: bool = False,
    proxy: URL | None = None,
    ca_certificates: str = "",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    nonce: Callable[[], str] = lambda: secrets.token_hex(16),
) -> Identity:
    """When this returns, the region knows this rack, and `load(data_dir)` gives the same identity, also after a loss of
    power. When it raises, an identity of before is still the one.

    The region's key is compared with the token before anything is sent: it is the token's, or one that came after it.
    The token's secret is never sent: it only makes a signature. `ca_certificates` are kept, and `session` trusts them.

    Raises Conflict when there is an identity and `again` is not set; WrongRegion; TokenSpent, TokenExpired and
    InvalidToken as the region says; FetchError; BadSignature or InvalidDocument for an answer of somebody else.
    """
    directory = data_dir / "identity"
    if (directory / "region.json").exists() and not again:
        raise Conflict("This rack is enrolled already; add --again to give it a new key and enrol it anew.")
    region_key = await _region_key(session, region_url, proxy)
    if fingerprint(region_key) != token.region_fingerprint:
        await _require_successor(session, region_url, proxy, token.region_fingerprint, region_key)

    key = await asyncio.to_thread(_new_key, directory)
    asked = EnrolmentRequest(name, encode_bytes(public_bytes(key)), fingerprint(region_key), nonce(), now())
    try:
        sealed = await _post(session, region_url, asked.sealed(token), region_key, asked.nonce, proxy)
    except _ClockIsWrong as error:
        _log.warning(
            f"This machine's clock differs from the region's, whose time is {error.now:%Y-%m-%d %H:%M:%S} UTC; it"
            " enrols by that.",
            action="clock",
        )
        asked = dataclasses.replace(asked, nonce=nonce(), created_at=error.now)
        sealed = await _post(session, region_url, asked.sealed(token), region_key, "", proxy)
    answer = Enrolment.open(sealed, region_key, asked)

    document = {
        "region_url": str(region_url),
        "region_key": encode_bytes(public_bytes(region_key)),
        "rack_id": answer.rack_id,
        "name": answer.name,
        "rack_key_fingerprint": fingerprint(key),
    }
    if ca_certificates:
        document["ca_certificates"] = ca_certificates
    await asyncio.to_thread(_keep, directory, document)
    return Identity(region_url, region_key, answer.rack_id, answer.name, key, ca_certificates=ca_certificates)


async def ask_keys(session: aiohttp.ClientSession, region_url: URL, proxy: URL | None = None) -> Sequence[Signed]:
    """How the region's keys followed each other, as it says; none of it is verified.

    Nothing of this rack is sent. Raises FetchError, InvalidDocument.
    """
    async with request(session, "GET", region_url.joinpath("api/v1/region/keys"), proxy=proxy) as response:
        await require_ok(response)
        return parse_chain(await read_capped(response, MAX_CHAIN_BYTES))


def follow(data_dir: Path, identity: Identity, chain: Sequence[Signed]) -> bool:
    """True if the region's key was rotated: `identity` believes the new one, also after a loss of power. Blocks.

    Each key between the one it has known and the new one must vouch for the next, and none comes back that was left
    (`shared.wire.succession`). Raises BadSignature, InvalidDocument; Conflict when this rack was enrolled anew
    meanwhile; OSError. It believes then what it has believed before.
    """
    known = identity.region_key
    found = successors(fingerprint(known), chain, {fingerprint(key) for key in identity.former})
    if not found:
        return False
    former = (*identity.former, known, *found[:-1])[-MAX_SUCCESSIONS:]
    directory, before = data_dir / "identity", encode_bytes(public_bytes(known))
    with _changing(directory, rack_id=identity.rack_id, region_key=before) as document:
        document["region_key"] = encode_bytes(public_bytes(found[-1]))
        document["former_region_keys"] = [encode_bytes(public_bytes(key)) for key in former]
    # After it is kept: a rack that has left a key never goes back to it.
    identity.region_key, identity.former = found[-1], former
    return True


def next_key(data_dir: Path, identity: Identity) -> Ed25519PrivateKey:
    """The key that is to come after `identity.key`, kept beside it; that of a renewal which broke off is taken. Blocks.

    It survives a loss of power. Raises OSError.
    """
    directory = data_dir / "identity"
    fresh = kept_next_key(data_dir)
    if fresh is not None and fingerprint(fresh) == fingerprint(identity.key):
        # A renewal ended between its last two steps.
        _rename(directory, "rack.key.next")
        fresh = None
    if fresh is None:
        fresh = Ed25519PrivateKey.generate()
        write_whole(directory / "rack.key.next", private_pem(fresh), mode=0o600, owner=owner_of(directory))
    return fresh


def kept_next_key(data_dir: Path) -> Ed25519PrivateKey | None:
    """What a renewal that broke off has left; None where there is no such, or none that can be read. Blocks."""
    try:
        return load_key(data_dir / "identity" / "rack.key.next")
    except (FileNotFoundError, InvalidDocument):
        return None


def drop_next_key(data_dir: Path) -> None:
    """The region has not taken it. Blocks."""
    (data_dir / "identity" / "rack.key.next").unlink(missing_ok=True)


def put_next_key(data_dir: Path, identity: Identity, fresh: Ed25519PrivateKey) -> None:
    """The region has taken `fresh`: `identity` has it now, also after a loss of power. Blocks.

    Raises Conflict when this rack was enrolled anew meanwhile; OSError. Both keys are there then.
    """
    directory = data_dir / "identity"
    before = fingerprint(identity.key)
    with _changing(directory, rack_id=identity.rack_id, rack_key_fingerprint=before) as document:
        document["rack_key_fingerprint"] = fingerprint(fresh)
    identity.key = fresh
    _rename(directory, "rack.key.next")


def put_region_url(data_dir: Path, identity: Identity, url: URL) -> None:
    """The region is reached at `url` from now on, also after a loss of power. Blocks.

    Raises Conflict when this rack was enrolled anew meanwhile; OSError.
    """
    with _changing(data_dir / "identity", rack_id=identity.rack_id) as document:
        document["region_url"] = str(url)
    identity.region_url = url


@contextmanager
def _changing(directory: Path, **before: str) -> Iterator[dict[str, object]]:
    """Inside, change what `region.json` says; it is written whole at the end. Nobody else changes it meanwhile. Blocks.

    Raises Conflict unless it says what was so `before`: another process has enrolled this rack anew.
    """
    with _alone(directory):
        document = dict(read_document(directory / "region.json"))
        if any(document.get(name) != said for name, said in before.items()):
            raise Conflict(
                "This rack was enrolled again; restart bootferry-rack, which runs with the earlier enrolment."
            )
        yield document
        _write_region(directory, document)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _require_successor(
    session: aiohttp.ClientSession, region_url: URL, proxy: URL | None, known: str, found: Ed25519PublicKey
) -> None:
    """Raises WrongRegion unless `found` came after the key with the fingerprint `known`; FetchError, BadSignature."""
    try:
        keys = successors(known, await ask_keys(session, region_url, proxy))
    except HttpStatus as error:
        # A region of before has had one key ever.
        raise WrongRegion(known, fingerprint(found)) from error
    if not keys or keys[-1] != found:
        raise WrongRegion(known, fingerprint(found))


def _new_key(directory: Path) -> Ed25519PrivateKey:
    """A new key, kept beside the one that counts."""
    make_directory(directory)
    fresh = directory / "rack.key.new"
    if fresh.exists():
        _settle(directory)
    key = Ed25519PrivateKey.generate()
    write_whole(fresh, private_pem(key), mode=0o600, owner=owner_of(directory))
    return key


def _settle(directory: Path) -> None:
    """Finish an enrolment that ended between its two files: there, the new key is the one that counts."""
    try:
        counts = str(read_document(directory / "region.json")["rack_key_fingerprint"])
        if fingerprint(load_key(directory / "rack.key.new")) == counts:
            _let_new_key_count(directory)
    except (FileNotFoundError, InvalidDocument, KeyError):
        return


def _keep(directory: Path, document: Mapping[str, object]) -> None:
    with _alone(directory):
        _write_region(directory, document)
        _let_new_key_count(directory)
        # Of the enrolment before.
        (directory / "rack.key.next").unlink(missing_ok=True)


def _write_region(directory: Path, document: Mapping[str, object]) -> None:
    content = json.dumps(document, indent=2).encode() + b"\n"
    write_whole(directory / "region.json", content, mode=0o600, owner=owner_of(directory))


def _let_new_key_count(directory: Path) -> None:
    _rename(directory, "rack.key.new")


def _rename(directory: Path, name: str) -> None:
    """This key is `rack.key` from now on."""
    (directory / name).replace(directory / "rack.key")
    sync_directory(directory)


async def _region_key(session: aiohttp.ClientSession, region_url: URL, proxy: URL | None) -> Ed25519PublicKey:
    url = region_url.joinpath("api/v1/region")
    async with request(session, "GET", url, proxy=proxy) as response:
        await require_ok(response)
        body = await read_capped(response, MAX_REGION_BYTES)
    try:
        return parse_public_key(json.loads(body)["public_key"])
    except (ValueError, KeyError, TypeError, InvalidValue) as error:
        raise InvalidDocument(str(url), "it does not say the public key of a Bootferry region") from error


class _ClockIsWrong(Exception):
    """The region has refused the enrolment for its time, and has said its own."""

    def __init__(self, now: datetime) -> None:
        self.now = now


async def _post(
    session: aiohttp.ClientSession,
    region_url: URL,
    body: bytes,
    region_key: Ed25519PublicKey,
    nonce: str,
    proxy: URL | None,
) -> bytes:
    """The region's answer. Raises _ClockIsWrong where it is a correction for this `nonce`; "" looks for none."""
    url = region_url.joinpath("api/v1/racks/enrol")
    headers = {"Content-Type": MEDIA_TYPE}
    try:
        async with request(session, "POST", url, headers=headers, body=body, proxy=proxy) as response:
            if nonce and (header := response.headers.get(CORRECTION_HEADER)) is not None:
                raise _ClockIsWrong(Correction.open(header, region_key, nonce).at)
            await require_ok(response, 201)
            return await read_capped(response, 2 * MAX_ENROLMENT_BYTES)
    except HttpStatus as error:
        for refusal in (InvalidToken, TokenSpent, TokenExpired):
            if error.problem == refusal.code:
                raise refusal(error.detail) from error
        raise
