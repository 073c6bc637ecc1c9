"""Reading a source: GET, then OpenPGP, then documents. Nothing that was not verified leaves this file."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import aiohttp
from yarl import URL

from region.catalogue import trust
from region.catalogue.freshness import require_not_ahead
from region.catalogue.products import INDEX, Document, Reading, require_not_older
from region.catalogue.sources import SourceWish
from region.secrets import Address, Secrets
from region.stream import documents, openpgp
from shared.errors import BootferryError, HttpStatus, InvalidDocument, MixedDocuments, TimedOut, Unsigned
from shared.http import client_session, read_capped, request, require_ok, shown
from shared.names import RelativePath
from shared.patience import Patience, patiently

T = TypeVar("T")

DEADLINE_S = 300.0
"""The most that all documents of one source may take together."""
LOOKS = 3
"""How often index and product files are read until they belong together."""
ONCE = Patience(attempts=1)
_SIGNED, _PLAIN = ".sjson", ".json"
_DECODER = ThreadPoolExecutor(1, "decode")
"""One document at a time, whoever reads: what decoding takes in memory is taken once."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A source one can talk to, until the session closes. `keyring` is None for a source declared unsigned.

    `unsigned_voucher` is what stands behind the documents of such a source.
    """

    root: URL = field(repr=False)
    keyring: bytes | None = field(repr=False)
    proxy: URL | None = field(repr=False)
    session: aiohttp.ClientSession
    unsigned_voucher: str

    def url(self, path: RelativePath) -> URL:
        """Where a path of the stream lies. Paths are below the mirror's root, never below the document."""
        return self.root.joinpath(*path.split("/"))


@dataclass(frozen=True, slots=True)
class Read:
    """What one look at a source gave: a reading, None when nothing changed; documents that failed.

    `skipped` says what of the whole stream cannot be used, a sentence each, unchanged documents included.
    """

    reading: Reading | None
    failed: Mapping[str, BootferryError]
    skipped: tuple[str, ...]


@asynccontextmanager
async def connect(source: SourceWish, proxy: Address | None, secrets: Secrets) -> AsyncIterator[Upstream]:
    """The source, through its own proxy (else `proxy`) and with its own CA bundle.

    Raises InvalidConfiguration; SecretUnreadable, which is one, when a user name and password cannot be opened.
    """
    way = source.proxy_address or proxy
    root, through = await asyncio.to_thread(lambda: (secrets.url(source.address), secrets.url(way) if way else None))
    async with client_session(ca_bundle=Path(source.ca_bundle) if source.ca_bundle else None) as session:
        yield Upstream(
            root=root,
            keyring=source.keyring,
            proxy=through,
            session=session,
            unsigned_voucher=trust.unsigned_voucher(source.url),
        )


async def read(
    upstream: Upstream,
    known: Mapping[str, Document],
    now: datetime,
    *,
    patience: Patience = ONCE,
    rng: random.Random | None = None,
    deadline_s: float = DEADLINE_S,
) -> Read:
    """Look at the source, asking only for what changed since the documents `known` that are believed.

    - A product file that fails costs its own products only and is named in `failed`. When the index itself fails, so
      does the look: raises FetchError, SignatureError, InvalidDocument.
    - What fails for a passing reason is tried again as `patience` says.
    - A product file that is older or newer than the index says, or is not where it says, may be of another state of the
      mirror: index and product file are read again, up to LOOKS times in all.
    - All of it takes at most `deadline_s`; documents that have not come by then have failed.
    """
    until = asyncio.get_running_loop().time() + deadline_s
    way = _Way(upstream, known, now, patience, rng or random.Random(), until)  # noqa: S311 - it spreads pauses
    looked = await _look(way, {}, first=True)
    for look in range(1, LOOKS):
        if not any(_may_be_mixed(error) for error in looked.failed.values()):
            break
        await asyncio.sleep(patience.pause_s(look, way.rng))
        try:
            looked = await _look(way, looked.came, first=False)
        except BootferryError:
            # The index came once: what came with it stays, and what failed is named.
            break
    return _found(looked, known)


@dataclass(frozen=True, slots=True)
class _Way:
    """How one reading goes: what is known already, and until when the loop's clock lets it go on."""

    upstream: Upstream
    known: Mapping[str, Document]
    now: datetime
    patience: Patience
    rng: random.Random
    until: float

    async def in_time(self, url: URL, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` comes to, tried again after passing failures. Raises TimedOut when the reading's time is over."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(self.until):
                return await patiently(work, self.patience, self.rng)
        except TimeoutError:
            raise TimedOut(shown(url), max(0, round(self.until - began))) from None


@dataclass(frozen=True, slots=True)
class _Looked:
    """One look: the index (None: it did not change), the paths it names, what came anew, and what failed."""

    index: Document | None
    paths: Mapping[str, RelativePath]
    came: Mapping[str, tuple[Document, documents.Products]]
    failed: Mapping[str, BootferryError]


def _may_be_mixed(error: BootferryError) -> bool:
    return isinstance(error, MixedDocuments) or (isinstance(error, HttpStatus) and error.status in (404, 410))


async def _look(way: _Way, had: Mapping[str, tuple[Document, documents.Products]], *, first: bool) -> _Looked:
    """Read the index, and the product files that are not had yet as it says. The `first` look asks conditionally."""
    upstream, known = way.upstream, way.known
    index_path = RelativePath(f"streams/v1/index{_PLAIN if upstream.keyring is None else _SIGNED}")
    url = upstream.url(index_path)
    answer = await way.in_time(url, lambda: _fetch(upstream, index_path, known.get(INDEX) if first else None))
    index_document: Document | None = None
    dates: dict[str, datetime | None] = {}
    if answer is None:
        paths = {entry.content_id: entry.path for entry in known.values() if entry.content_id != INDEX and entry.listed}
    else:
        index = await _decoded(documents.parse_index, answer.text, shown(url))
        skipped = (*_sentences(index.skipped), *answer.notes)
        index_document = Document(INDEX, index_path, index.updated, answer.etag, skipped, vouched_by=answer.signers)
        require_not_ahead(index.updated, way.now, shown(url))
        require_not_older(index_document, known.get(INDEX), shown(url))
        paths = {entry.content_id: _variant(upstream, entry.path) for entry in index.entries}
        dates = {entry.content_id: entry.updated for entry in index.entries}

    came: dict[str, tuple[Document, documents.Products]] = {}
    failed: dict[str, BootferryError] = {}
    for content_id, path in paths.items():
        if (kept := had.get(content_id)) and kept[0].path == path and dates[content_id] in (None, kept[0].updated):
            came[content_id] = kept
            continue
        try:
            # An index that did not change promises what it did when the known product file came: its date.
            promised = dates[content_id] if answer is not None else known[content_id].updated
            found = await _products(way, content_id, path, promised)
        except BootferryError as error:
            failed[content_id] = error
            continue
        if found is not None:
            came[content_id] = found
    return _Looked(index_document, paths, came, failed)


def _found(looked: _Looked, known: Mapping[str, Document]) -> Read:
    index = looked.index or known[INDEX]
    current = dict(known) | {document.content_id: document for document, _ in looked.came.values()} | {INDEX: index}
    skipped = [
        sentence
        for content_id in (INDEX, *looked.paths)
        if content_id in current
        for sentence in current[content_id].skipped
    ]
    if looked.index is None and not looked.came:
        return Read(None, looked.failed, tuple(skipped))
    if looked.failed:
        # Asked again next time: an index remembered by its ETag would hide a product file that is new in it.
        index = replace(index, etag="")
    return Read(Reading(index, frozenset(looked.paths), list(looked.came.values())), looked.failed, tuple(skipped))


async def _decoded(parse: Callable[[bytes, str], T], text: bytes, where: str) -> T:
    """What `parse` makes of the text, off the loop. Raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_DECODER, parse, text, where)


def _sentences(skipped: Iterable[documents.Skipped]) -> tuple[str, ...]:
    return tuple(f"{entry.name}: {entry.why}" for entry in skipped)


async def _products(
    way: _Way, content_id: str, path: RelativePath, promised: datetime | None
) -> tuple[Document, documents.Products] | None:
    """The product file, of the date that the index promises for it, if any; None when it is still the known one."""
    upstream, known = way.upstream, way.known.get(content_id)
    url = upstream.url(path)
    where = shown(url)
    # One that had left the index is read anew: its products are not offered at the moment.
    unchanged_counts = known is not None and known.listed and known.path == path
    answer = await way.in_time(url, lambda: _fetch(upstream, path, known if unchanged_counts else None))
    if answer is None:
        _require_promised(where, known, promised)
        return None
    stream = await _decoded(documents.parse_products, answer.text, where)
    if stream.content_id != content_id:
        raise InvalidDocument(where, f"it is {stream.content_id!r} where the index promises {content_id!r}")
    document = Document(
        content_id,
        path,
        stream.updated,
        answer.etag,
        (*_sentences(stream.skipped), *answer.notes),
        vouched_by=answer.signers,
    )
    _require_promised(where, document, promised)
    require_not_ahead(stream.updated, way.now, where)
    require_not_older(document, known, where)
    return document, stream


def _require_promised(where: str, document: Document | None, promised: datetime | None) -> None:
    """Raises MixedDocuments when the document is older or newer than the index says."""
    if document is not None and promised is not None and promised != document.updated:
        raise MixedDocuments(where, document.updated, promised)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The text of a document, who vouches for it, its ETag, and what else is to be said of its signatures."""

    text: bytes
    signers: tuple[str, ...]
    etag: str
    notes: tuple[str, ...] = ()


async def _fetch(upstream: Upstream, path: RelativePath, known: Document | None) -> _Answer | None:
    """The verified document; None when it is still the one `known`."""
    url = upstream.url(path)
    headers = {"If-None-Match": known.etag} if known is not None and known.etag else {}
    async with request(upstream.session, "GET", url, headers=headers, proxy=upstream.proxy) as response:
        if response.status == 304 and headers:
            return None
        if response.status == 404 and path.endswith(f"index{_SIGNED}") and await _is_unsigned(upstream):
            raise Unsigned(shown(url))
        await require_ok(response)
        body = await read_capped(response, documents.MAX_DOCUMENT_BYTES)
        etag = response.headers.get("ETag", "")[:256]
    if upstream.keyring is None:
        return _Answer(body, (upstream.unsigned_voucher,), etag)
    verified = await openpgp.verify(body, upstream.keyring, origin=shown(url))
    return _Answer(verified.text, verified.signers, etag, verified.notes)


async def _is_unsigned(upstream: Upstream) -> bool:
    """True if there is a stream, but only without a signature."""
    plain = upstream.url(RelativePath(f"streams/v1/index{_PLAIN}"))
    async with request(upstream.session, "GET", plain, proxy=upstream.proxy) as response:
        return response.status == 200


def _variant(upstream: Upstream, path: RelativePath) -> RelativePath:
    """A signed source's product files are signed too, even where its index names the plain ones."""
    if upstream.keyring is not None and path.endswith(_PLAIN):
        return RelativePath(path.removesuffix(_PLAIN) + _SIGNED)
    return path
