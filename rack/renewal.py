"""Renewal: this rack's own key gives way to a new one, for which it vouches (`shared.wire.rack_key`).

    1. `rack.key.next` is written and flushed     before: nothing has happened
    2. the region is told, signed by `rack.key`   before: `rack.key` counts, and the next renewal takes what is there
    3. `region.json` names the new key            before: the region may have taken it, or not; whichever of the two
                                                  keys it takes is the one, and a rack that is refused finds out
    4. `rack.key.next` becomes `rack.key`         before: `region.json` says which counts, and both are there

A region that says no for good has taken nothing: the new key is dropped then.
"""

import asyncio
import dataclasses
from http import HTTPStatus
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rack import identity as identities
from rack.client import Region
from rack.identity import Identity
from shared.errors import Conflict, FetchError, HttpStatus, InvalidRequestSignature, Replayed

_UNCHANGED = "*"
"""If-None-Match of who wants no manifest, and only to be answered (RFC 9110, section 13.1.2)."""


async def renew(data_dir: Path, identity: Identity, region: Region, sequence: int) -> None:
    """When this returns the region knows this rack by its new key, which `identity` has, also after a loss of power.

    `sequence` is that of the last report. Raises Conflict when the region cannot do it, or this rack was enrolled anew;
    FetchError, after which either key may count (see above); InvalidRequestSignature; OSError.
    """
    try:
        # It tells the region's time, too, by which the sequence goes.
        await region.manifest(_UNCHANGED)
    except InvalidRequestSignature:
        if await recover(data_dir, identity, region):
            return
        raise
    fresh = await asyncio.to_thread(identities.next_key, data_dir, identity)
    try:
        await _tell(region, fresh, sequence)
    except InvalidRequestSignature:
        # aiohttp sends a request again where a connection ends without an answer: the region had taken the key by then.
        if not await recover(data_dir, identity, region):
            raise
        return
    except HttpStatus as error:
        if error.status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) and error.status < 500:
            await asyncio.to_thread(identities.drop_next_key, data_dir)
        if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            raise Conflict(
                "The region does not know how a rack's key is renewed: it is of a version before 0.2. Upgrade it first;"
                " this rack keeps its key."
            ) from error
        raise
    await asyncio.to_thread(identities.put_next_key, data_dir, identity, fresh)


async def recover(data_dir: Path, identity: Identity, region: Region) -> bool:
    """True if the region knows this rack by another key than `identity` had, which has it now.

    For a rack that is refused: another process has renewed the key, or a renewal broke off. Raises Conflict when this
    rack was enrolled anew; OSError, InvalidDocument.
    """
    kept = await asyncio.to_thread(identities.load, data_dir)
    if kept.rack_id != identity.rack_id:
        raise Conflict("This rack was enrolled again; restart bootferry-rack, which runs with the earlier enrolment.")
    if kept.key.private_bytes_raw() != identity.key.private_bytes_raw():
        identity.key = kept.key
        return True
    fresh = await asyncio.to_thread(identities.kept_next_key, data_dir)
    if fresh is None:
        return False
    try:
        await region.by(dataclasses.replace(identity, key=fresh)).manifest(_UNCHANGED)
    except (FetchError, InvalidRequestSignature):
        return False
    await asyncio.to_thread(identities.put_next_key, data_dir, identity, fresh)
    return True


async def _tell(region: Region, fresh: Ed25519PrivateKey, sequence: int) -> None:
    sequence = max(sequence + 1, int(region.now().timestamp() * 1000))
    try:
        await region.change_key(fresh.public_key(), sequence)
    except Replayed as error:
        # The running rack has reported meanwhile.
        await region.change_key(fresh.public_key(), error.sequence + 1)
