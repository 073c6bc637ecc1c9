"""/livez and /readyz, for those who watch over the process; /region, who it is. Figures are `region.api.metrics`."""

import asyncio

from fastapi import APIRouter, Request
from pydantic import Field

from region.api.deps import TheRegion
from region.api.models import Shape
from region.api.problems import documented
from region.database.connection import is_migrated, require_usable, transaction
from region.process import Region
from shared import __version__
from shared.errors import Unavailable
from shared.signing import encode_bytes, public_bytes

probes = APIRouter(tags=["health"])
router = APIRouter(tags=["health"])


class RegionShown(Shape):
    """Who answers here. A rack compares `fingerprint` with its token before it says anything."""

    name: str
    version: str
    public_key: str
    fingerprint: str
    tls: bool = Field(
        description="Whether this request came inside TLS, on the region's own connection or by a trusted proxy's word."
    )


@router.get("/region", summary="Who this region is")
async def get_region(region: TheRegion, request: Request) -> RegionShown:
    return RegionShown(
        name=region.configuration.name,
        version=__version__,
        public_key=encode_bytes(public_bytes(region.key)),
        fingerprint=region.fingerprint,
        tls=request.url.scheme == "https",
    )


class SuccessionShown(Shape):
    """One of the region's keys vouches for the one after it."""

    key: str = Field(description="The public key that signed: 32 bytes as base64url.")
    envelope: str = Field(description="A DSSE envelope of the type application/vnd.bootferry.succession+json.")


class RegionKeysShown(Shape):
    """The region's present key, and how those before it lead to it, oldest first; the last 64 of them."""

    public_key: str
    fingerprint: str
    successions: list[SuccessionShown]


@router.get("/region/keys", summary="How the region's keys followed each other", responses=documented(503))
async def get_region_keys(region: TheRegion) -> RegionKeysShown:
    region.require_ready()
    return RegionKeysShown(
        public_key=encode_bytes(public_bytes(region.key)),
        fingerprint=region.fingerprint,
        successions=[SuccessionShown(key=one.signed.key, envelope=one.signed.envelope) for one in region.successions],
    )


@probes.head("/livez", include_in_schema=False)
@probes.get("/livez", summary="The process answers")
async def livez() -> dict[str, str]:
    return {"status": "alive"}


@probes.head("/readyz", include_in_schema=False)
@probes.get("/readyz", summary="Database, schema and disk are usable", responses=documented(503))
async def readyz(request: Request) -> dict[str, str]:
    readiness: Readiness = request.app.state.readiness
    await readiness.require()
    return {"status": "ready"}


class Readiness:
    """Whether the region can work. However many ask, one look is made at a time, and answers them all."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._looking: asyncio.Task[None] | None = None

    async def require(self) -> None:
        """Raises Unavailable unless database, schema and disk are usable."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(_require_usable(self._region))
        # Who leaves must not end it for the others.
        await asyncio.shield(self._looking)


async def _require_usable(region: Region) -> None:
    region.require_ready()
    async with transaction(region.request_engine) as connection:
        if not await is_migrated(connection):
            raise Unavailable(
                "The database does not have this version's schema: run bootferry-region migrate", retry_after=60
            )
        await require_usable(connection)
    try:
        await asyncio.to_thread(region.store.require_writable)
    except OSError as error:
        raise Unavailable(f"The region's disk cannot be written ({error.strerror})", retry_after=60) from error
    if await asyncio.to_thread(region.store.bytes_free) == 0:
        raise Unavailable("The region's disk is full: free some room", retry_after=60)
