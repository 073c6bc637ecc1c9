"""/files: bytes by digest, for racks and for operators."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.security import HTTPAuthorizationCredentials

from region.api.deps import SignedRack, TheRegion, bearer, the_operator
from region.api.problems import documented
from region.catalogue import files
from region.database.connection import transaction
from region.edge.content import file_response
from shared.digest import Sha256
from shared.errors import NotFound, Unavailable

router = APIRouter(tags=["files"])


async def _allowed_size(
    region: TheRegion,
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    sha256: Annotated[str, Path(description="SHA-256, 64 hexadecimal digits.")],
) -> tuple[Sha256, int]:
    """Who may have the file and how large it is. Raises NotFound.

    A rack gets the files of its manifest, from memory, and for the prune grace those of the manifests before it.
    """
    digest = Sha256(sha256)
    if isinstance(request.state.caller, SignedRack):
        size = region.memory.published_sizes.get(digest)
        if size is not None:
            return digest, size
        if not region.memory.is_named(digest):
            # Another process may have published since; to ask for that costs the same whoever publishes how much.
            await region.memory.refresh()
            if not region.memory.is_named(digest):
                raise NotFound("file", digest)
    else:
        the_operator(request)
    region.require_ready()
    async with transaction(region.request_engine) as connection:
        return digest, await files.size_of(connection, digest)


@router.head("/files/{sha256}", include_in_schema=False, response_class=Response)
@router.get(
    "/files/{sha256}",
    summary="Get a stored file",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "A range of it"},
        304: {"description": "Unchanged"},
        **documented(401, 404, 412, 416, 422, 503),
    },
)
async def get_file(
    region: TheRegion, request: Request, wanted: Annotated[tuple[Sha256, int], Depends(_allowed_size)]
) -> Response:
    sha256, size = wanted
    try:
        return await file_response(request, region.store, sha256, size, accel_prefix=region.configuration.accel_prefix)
    except Unavailable:
        region.clock.unread.add(sha256)
        region.doubted.set()
        raise
