"""Moving: the region says, signed, that racks reach it at another address; this rack goes there if it is true.

True it is when what answers there

- is asked as this region is, by this rack's key, and
- answers with a manifest that the region's key has signed, or one that came after that key by its own word
  (`shared.wire.succession`), and that is not older than the last one accepted (I3).

Otherwise the rack stays where it is, says so, and asks again at the next poll. It never goes from https to http.
"""

import asyncio
import dataclasses
from http import HTTPStatus
from pathlib import Path

from rack import identity as identities
from rack.client import Region
from rack.identity import Identity
from shared.errors import (
    CannotMove,
    FetchError,
    HttpStatus,
    InvalidDocument,
    InvalidRequestSignature,
    InvalidValue,
    SignatureError,
    TooOld,
)
from shared.signing import fingerprint
from shared.wire.envelope import open_envelope
from shared.wire.manifest import MANIFEST_TYPE, Manifest, Order
from shared.wire.succession import follow as successors


async def move(data_dir: Path, identity: Identity, region: Region, said: str, floor: Order) -> bool:
    """True if this rack reaches its region at the address `said` from now on, also after a loss of power.

    False if it does already. Raises CannotMove when the region is not there; Conflict when this rack was enrolled anew;
    OSError.
    """
    try:
        url = identities.parse_region_url(said)
    except InvalidValue as error:
        raise CannotMove(said, str(identity.region_url), error.why) from error
    if url == identity.region_url:
        return False
    if identity.region_url.scheme == "https" and url.scheme != "https":
        raise CannotMove(said, str(identity.region_url), "it is not https, as the present address is")
    there = region.by(dataclasses.replace(identity, region_url=url))
    try:
        await _require_region(there, identity, floor)
    except (FetchError, SignatureError, InvalidRequestSignature, InvalidDocument, TooOld) as error:
        raise CannotMove(said, str(identity.region_url), str(error).rstrip(".")) from error
    await asyncio.to_thread(identities.put_region_url, data_dir, identity, url)
    return True


async def _require_region(there: Region, identity: Identity, floor: Order) -> None:
    """Raises an error that says why unless the region of `identity` is `there`."""
    key = identity.region_key
    left = {fingerprint(former) for former in identity.former}
    try:
        found = successors(fingerprint(key), await there.keys(), left)
    except HttpStatus as error:
        # A region of before has had one key ever.
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        found = []
    key = found[-1] if found else key
    published = await there.believing(key).manifest("")
    if published is None:
        raise InvalidDocument("its manifest", "nothing was published there")
    manifest = Manifest.parse(open_envelope(published.envelope, MANIFEST_TYPE, [key], origin="the manifest there"))
    if manifest.order < floor:
        raise TooOld("The manifest there", _spoken(manifest.order), _spoken(floor))


def _spoken(order: Order) -> str:
    return f"epoch {order[0]}, serial {order[1]}"
