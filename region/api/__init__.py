"""The HTTP API: `create` makes the application, one router per noun."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Lifespan

from region.actions.racks import ENROLMENT_ATTEMPTS, ENROLMENT_ATTEMPTS_IN_TOTAL
from region.api import (
    events,
    files,
    health,
    images,
    imports,
    manifest,
    metrics,
    operators,
    problems,
    racks,
    selections,
    settings,
    sources,
)
from region.api.deps import identify, vouch, who
from region.api.doors import door
from region.api.openapi import describe
from region.edge.admission import Admission, Strangers
from region.edge.measuring import Measuring
from region.edge.surroundings import Surroundings
from region.people.attempts import Attempts, FailedLogIns
from region.process import Region, running
from shared import __version__

VERSION_PREFIX = "/api/v1"
WEB = Path(__file__).parent.parent / "web"
PAGE_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
DOCS_POLICY = f"{PAGE_POLICY}; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
"""Swagger UI sets styles of elements by itself; nothing else on its page may be inline, and nothing leaves the host."""

_OPERATED = (images, selections, sources, imports, racks, operators, settings, events)
"""The nouns that take an operator, or a rack where they say so."""

_PIECE_BYTES = 64 * 1024
_NOT_KEPT = {"Cache-Control": "no-cache"}
_TAGS = [
    {"name": "images", "description": "What operators look at: images and where they are."},
    {"name": "selections", "description": "Which images are wanted."},
    {"name": "sources", "description": "Where images come from."},
    {"name": "imports", "description": "The runs that bring images in, and the hourly sync."},
    {"name": "racks", "description": "The services that pull from this region and serve machines."},
    {"name": "operators", "description": "Who may do what, and who did."},
    {"name": "settings", "description": "What holds for the whole region."},
    {"name": "files", "description": "Bytes by digest."},
    {"name": "events", "description": "Word that something changed."},
    {"name": "health", "description": "For those who watch over the process."},
]


class _Static(StaticFiles):
    """Files that a browser asks after each time: after an upgrade old modules must not meet new ones."""

    def file_response(self, *arguments: Any, **given: Any) -> Response:
        response = super().file_response(*arguments, **given)
        response.headers.update(_NOT_KEPT)
        return response


def create(region: Region, strangers: Strangers | None = None) -> FastAPI:
    """The application of a region process; its lifespan runs the region."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running(region):
            yield

    app = _application(lifespan)
    app.state.region = region
    app.state.attempts = Attempts()
    app.state.failed_log_ins = FailedLogIns()
    app.state.enrolment_attempts = Attempts(ENROLMENT_ATTEMPTS, ENROLMENT_ATTEMPTS_IN_TOTAL, "enrolments")
    app.state.readiness = health.Readiness(region)
    app.state.strangers = strangers or Strangers()
    app.add_middleware(
        Admission,
        door=door,
        identify=identify,
        vouch=partial(vouch, region),
        refuse=problems.answer,
        strangers=app.state.strangers,
    )
    app.add_middleware(Surroundings)
    app.add_middleware(Measuring, meters=region.meters, who=who)
    return app


def description() -> dict[str, Any]:
    """The OpenAPI document, as `/api/v1/openapi.json` answers it."""
    return _application(None).openapi()


def _described(app: FastAPI) -> bytes:
    return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()


def _pieces(body: bytes, media_type: str) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), _PIECE_BYTES):
            yield body[start : start + _PIECE_BYTES]

    return StreamingResponse(pieces(), media_type=media_type, headers={"Content-Length": str(len(body))})


def _application(lifespan: Lifespan[FastAPI] | None) -> FastAPI:
    app = FastAPI(
        title="Bootferry region",
        version=__version__,
        summary="Boot images: where they come from, which are wanted, where they are.",
        description=(
            "Send an operator token as `Authorization: Bearer bf_…`. Errors are RFC 9457 problems with a stable `code`"
            " and one sentence that says what to do."
        ),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        contact={"name": "The Bootferry developers"},
        openapi_tags=_TAGS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    versioned = APIRouter(prefix=VERSION_PREFIX, responses=problems.documented(408, 413, 422, 503))
    for noun in _OPERATED:
        versioned.include_router(noun.router, responses=problems.documented(401, 403))
    for noun in (manifest, files, health):
        versioned.include_router(noun.router)
    app.include_router(versioned)
    app.include_router(health.probes)
    app.include_router(metrics.router)
    app.mount("/static", _Static(directory=WEB / "static"), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers={"Content-Security-Policy": PAGE_POLICY} | _NOT_KEPT)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(WEB / "docs.html", headers={"Content-Security-Policy": DOCS_POLICY} | _NOT_KEPT)

    described: asyncio.Future[bytes] | None = None

    @app.get(f"{VERSION_PREFIX}/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        # Made once, off the loop, and sent in pieces: it is large, and for everybody.
        nonlocal described
        if described is None:
            described = asyncio.ensure_future(asyncio.to_thread(_described, app))
        return _pieces(await asyncio.shield(described), "application/json")

    problems.install(app)
    describe(app)
    return app
