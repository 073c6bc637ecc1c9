"""What a route may ask for: the region, a transaction, and who is asking."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import Depends, Header, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.connection import transaction
from region.people import operators, sessions
from region.people.operators import Operator, Role
from region.process import Region
from region.publishing.successions import in_overlap
from shared.errors import Forbidden, InvalidRequestSignature, Replayed, Unauthenticated, WrongClock
from shared.signing import Head, claimed_key_id, verify_body, verify_head
from shared.wire.correction import Correction

SESSION_COOKIE = "bf_session"

bearer = HTTPBearer(auto_error=False, scheme_name="operator_token")
signature = APIKeyHeader(name="Signature", auto_error=False, scheme_name="rack_signature")
"""For the API's description alone, as `bearer` is: admission has found out who asks before a route is reached."""


async def the_region(request: Request) -> Region:
    """The process this request came to."""
    region: Region = request.app.state.region
    return region


TheRegion = Annotated[Region, Depends(the_region)]


async def _connection(region: TheRegion) -> AsyncIterator[AsyncConnection]:
    region.require_ready()
    async with transaction(region.request_engine) as connection:
        yield connection


Transaction = Annotated[AsyncConnection, Depends(_connection, scope="function")]
"""One transaction, committed before the answer is sent."""


async def _if_match(
    request: Request,
    _documented: Annotated[
        str | None,
        Header(
            alias="If-Match",
            description=(
                "The ETag of what you have seen, several of them, or `*`. If it is no longer so, nothing is changed and"
                " the answer is 412, which says who changed it last, when and how."
            ),
        ),
    ] = None,
) -> str | None:
    # A list may come in several lines (RFC 9110 §5.3).
    lines = request.headers.getlist("if-match")
    return ", ".join(lines) if lines else None


IfMatch = Annotated[str | None, Depends(_if_match)]
"""What the caller has seen of the thing to be changed; for an act's `if_match`. Document the route's 412 beside it."""


async def identify(request: Request) -> "Operator | SignedRack | None":
    """Who asks: by bearer token, by a rack's signature, or by session cookie. None for who presents nothing.

    Asked by admission, once, before the body is read. Raises Unauthenticated and its kinds, Forbidden for a cookie from
    elsewhere, Unavailable.
    """
    region: Region = request.app.state.region
    token = _bearer_token(request)
    if token is None and "signature-input" in request.headers:
        return authenticate_head(region, request)
    if token is None and SESSION_COOKIE not in request.cookies:
        return None
    if token is None:
        require_same_origin(request)
    region.require_ready()
    return replace(await _operator(region, request, token, using=True), address=address_of(request))


async def _operator(region: Region, request: Request, token: str | None, *, using: bool) -> Operator:
    # A transaction of its own, so that nobody holds a connection while a body, or an event, is on its way.
    async with transaction(region.request_engine) as connection:
        if token is not None:
            return await operators.authenticate(connection, token, region.now(), using=using)
        secret = request.cookies.get(SESSION_COOKIE, "")
        operator, _ = await sessions.resume_session(connection, secret, region.now(), using=using)
        return operator


def _bearer_token(request: Request) -> str | None:
    scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
    return token if scheme.lower() == "bearer" else None


async def look_again(region: Region, request: Request) -> None:
    """Raises Unauthenticated and its kinds unless the operator who began this request could begin it again.

    That is no use of token or session: who only listens is idle.
    """
    await _operator(region, request, _bearer_token(request), using=False)


def vouch(region: Region, caller: object, body: bytes) -> None:
    """Raises InvalidRequestSignature when a rack has signed another body than this."""
    if isinstance(caller, SignedRack):
        verify_body(caller.head, body)
        region.sightings.note(caller.id)


def who(caller: object) -> str:
    """In a word, for figures."""
    match caller:
        case SignedRack():
            return "racks"
        case Operator():
            return "operators"
    return "strangers"


def the_operator(request: Request) -> Operator:
    """The operator who asks. Raises Unauthenticated when nobody does, or a rack."""
    caller = request.state.caller
    if not isinstance(caller, Operator):
        raise Unauthenticated
    return caller


def the_rack(request: Request) -> "SignedRack":
    """The rack that signed this request. Raises InvalidRequestSignature when none did."""
    caller = request.state.caller
    if not isinstance(caller, SignedRack):
        raise InvalidRequestSignature("there is none")
    return caller


def require_same_origin(request: Request) -> None:
    """Raises CrossOrigin unless a browser that sent its cookie by itself did so for a page of ours.

    Fetch metadata where the browser sends it, else Origin (https://www.w3.org/TR/fetch-metadata/).
    """
    if request.method in ("GET", "HEAD"):
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        same = site == "same-origin"
    else:
        scheme, _, host = request.headers.get("origin", "").partition("://")
        # Without TLS anybody can be our page: what came inside it must come from a page inside it.
        same = host == request.headers.get("host", "-") and (scheme == "https" or request.url.scheme == "http")
    if not same:
        raise CrossOrigin("A change must come from the region's own page; reload it and try again.")


class CrossOrigin(Forbidden):
    """Another site's page made the browser send a change."""

    code = "cross_origin"


def address_of(request: Request) -> str:
    """Where the request came from, as the server saw it."""
    return request.client.host if request.client else ""


def require_role(role: Role) -> Callable[..., Awaitable[Operator]]:
    """A dependency: the operator who asks, who has at least `role`. Raises Unauthenticated, Forbidden."""

    async def require(
        request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Operator:
        operator = the_operator(request)
        if not operator.role.includes(role):
            raise Forbidden(f"{operator.name} is a {operator.role}; this takes the role {role}.")
        return operator

    return require


Viewer = Annotated[Operator, Depends(require_role(Role.VIEWER))]
Changer = Annotated[Operator, Depends(require_role(Role.OPERATOR))]
Admin = Annotated[Operator, Depends(require_role(Role.ADMIN))]


@dataclass(frozen=True, slots=True)
class SignedRack:
    """A rack that signed this very request's head, by `key`, which was its own as far as this process has heard.

    Whoever changes something compares `head.sequence` with the last.
    """

    id: str
    head: Head
    key: Ed25519PublicKey


async def authenticate_rack(
    request: Request, _documented: Annotated[str | None, Depends(signature)] = None
) -> SignedRack:
    """The rack that signed this request. Raises InvalidRequestSignature when none did."""
    return the_rack(request)


def authenticate_head(region: Region, request: Request) -> SignedRack:
    """The rack that signed this request's head; its body is not read, and not vouched for yet.

    Raises InvalidRequestSignature; Unavailable until racks are known.
    """
    region.require_ready()
    headers = dict(request.headers)
    rack_id = claimed_key_id(headers)
    key = region.rack_keys.get(rack_id)
    if key is None:
        raise InvalidRequestSignature(f"no rack with the id {rack_id} is enrolled here")
    query = f"?{request.url.query}" if request.url.query else ""
    target = f"{request.scope['raw_path'].decode('ascii')}{query}"
    with correcting(region):
        head = verify_head(
            key,
            rack_id,
            request.method,
            target,
            headers,
            region=region.fingerprint,
            formerly=in_overlap(region.successions, region.now()),
            now=region.now(),
        )
    return SignedRack(rack_id, head, key)


@contextmanager
def correcting(region: Region) -> Iterator[None]:
    """A rack that is refused in here for its time or its sequence is told what they should be, signed."""
    try:
        yield
    except (WrongClock, Replayed) as error:
        # A rack of 0.1 sends no nonce, and would not look.
        if error.nonce:
            sequence = error.sequence if isinstance(error, Replayed) else 0
            error.correction = Correction(region.now().timestamp(), sequence, error.nonce).sealed(region.key)
        raise


TheRack = Annotated[SignedRack, Depends(authenticate_rack)]
