"""Reading a source: GET, then OpenPGP, then documents. Nothing that was not verified leaves this file."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
from yarl import URL

from region.catalogue.products import INDEX, Document, Reading, require_not_older
from region.catalogue.sources import SourceWish
from region.secrets import Address, Secrets
from region.stream import documents, openpgp
from shared.errors import BootferryError, InvalidDocument, Unsigned
from shared.http import client_session, read_capped, request, require_ok, shown
from shared.names import RelativePath

_SIGNED, _PLAIN = ".sjson", ".json"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A source one can talk to, until the session closes. `keyring` is None for a source declared unsigned.

    `unsigned_voucher` is what stands behind the documents of such a source.
    """

    root: URL = field(repr=False)
    keyring: bytes | None = field(repr=False)
    proxy: URL | None = field(repr=False)
    session: aiohttp.ClientSession
    unsigned_voucher: str = ""

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
async def connect(
    source: SourceWish, keyring: bytes | None, proxy: Address | None, secrets: Secrets
) -> AsyncIterator[Upstream]:
    """The source, through its own proxy (else `proxy`) and with its own CA bundle.

    Raises InvalidConfiguration; SecretUnreadable, which is one, when a user name and password cannot be opened.
    """
    way = source.proxy_address or proxy
    root, through = await asyncio.to_thread(lambda: (secrets.url(source.address), secrets.url(way) if way else None))
    async with client_session(ca_bundle=Path(source.ca_bundle) if source.ca_bundle else None) as session:
        yield Upstream(
            root=root,
            keyring=keyring,
            proxy=through,
            session=session,
            unsigned_voucher=f"unsigned:{source.url}",
        )


async def read(upstream: Upstream, known: Mapping[str, Document]) -> Read:
    """Look at the source, asking only for what changed since the documents `known` that are believed.

    A product file that fails costs its own products only and is named in `failed`. When the index itself fails, so does
    the look: raises FetchError, SignatureError, InvalidDocument.
    """
    index_path = RelativePath(f"streams/v1/index{_PLAIN if upstream.keyring is None else _SIGNED}")
    answer = await _fetch(upstream, index_path, known.get(INDEX))
    if answer is None:
        index_document = known[INDEX]
        entries = [entry for content_id, entry in known.items() if content_id != INDEX and entry.listed]
        paths = {entry.content_id: entry.path for entry in entries}
    else:
        index = await asyncio.to_thread(documents.parse_index, answer.text, shown(upstream.url(index_path)))
        index_document = Document(
            INDEX,
            index_path,
            index.updated,
            answer.etag,
            (*_sentences(index.skipped), *answer.notes),
            vouched_by=answer.signers,
        )
        require_not_older(index_document, known.get(INDEX), shown(upstream.url(index_path)))
        paths = {entry.content_id: _variant(upstream, entry.path) for entry in index.entries}

    changed: list[tuple[Document, documents.Products]] = []
    failed: dict[str, BootferryError] = {}
    for content_id, path in paths.items():
        try:
            found = await _products(upstream, content_id, path, known.get(content_id))
        except BootferryError as error:
            failed[content_id] = error
            continue
        if found is not None:
            changed.append(found)
    current = dict(known) | {document.content_id: document for document, _ in changed} | {INDEX: index_document}
    skipped = [
        sentence for content_id in (INDEX, *paths) if content_id in current for sentence in current[content_id].skipped
    ]
    if answer is None and not changed:
        return Read(None, failed, tuple(skipped))
    if failed:
        # Asked again next time: an index remembered by its ETag would hide a product file that is new in it.
        index_document = replace(index_document, etag="")
    return Read(Reading(index_document, frozenset(paths), changed), failed, tuple(skipped))


def _sentences(skipped: Iterable[documents.Skipped]) -> tuple[str, ...]:
    return tuple(f"{entry.name}: {entry.why}" for entry in skipped)


async def _products(
    upstream: Upstream, content_id: str, path: RelativePath, known: Document | None
) -> tuple[Document, documents.Products] | None:
    where = shown(upstream.url(path))
    # One that had left the index is read anew: its products are not offered at the moment.
    unchanged_counts = known is not None and known.listed and known.path == path
    answer = await _fetch(upstream, path, known if unchanged_counts else None)
    if answer is None:
        return None
    stream = await asyncio.to_thread(documents.parse_products, answer.text, where)
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
    require_not_older(document, known, where)
    return document, stream


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
