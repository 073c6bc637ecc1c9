"""Pull: which files are missing, and fetching them from the region."""

import asyncio
import random
from collections.abc import Callable, Collection, Iterator

from yarl import URL

from shared.digest import Sha256
from shared.download import Transfer, download
from shared.errors import BootferryError, HttpStatus, InvalidRequestSignature, NoRoom
from shared.pace import Pace
from shared.patience import Patience, is_regions, patiently
from shared.store.base import Store
from shared.wire.manifest import Manifest

PACE = Pace(floor_bytes_per_s=1024)
"""A region that thousands of racks ask at once sends little to each, and what comes is worth having."""


def diff(manifest: Manifest, held: Collection[Sha256]) -> list[tuple[Sha256, int]]:
    """The files `manifest` names that are not `held`, with their sizes, each once; the files of one image together,
    so that the first image is whole long before the last."""
    entries = sorted(manifest.entries, key=lambda entry: (entry.image, entry.path))
    return list({entry.sha256: entry.size for entry in entries if entry.sha256 not in held}.items())


def fitting(
    manifest: Manifest, missing: Collection[tuple[Sha256, int]], store: Store
) -> tuple[list[tuple[Sha256, int]], dict[Sha256, NoRoom]]:
    """Of the `missing` files those of the images that fit together, the smallest images first; why the others do not.

    An image that does not fit keeps none of those that do from coming. What has arrived is deducted. Blocks.
    """
    wanted, free = dict(missing), store.bytes_free()
    lacking = {
        image: found
        for image, entries in manifest.images().items()
        if (found := {entry.sha256: entry.size for entry in entries if entry.sha256 in wanted})
    }
    chosen: dict[Sha256, int] = {}
    refused: dict[Sha256, NoRoom] = {}
    for image in sorted(lacking, key=lambda image: (store.bytes_missing(lacking[image].items()), image)):
        needed = store.bytes_missing((lacking[image] | chosen).items())
        if needed <= free:
            chosen |= lacking[image]
        else:
            left = free - store.bytes_missing(chosen.items())
            error = NoRoom(store.where, store.bytes_missing(lacking[image].items()), left)
            refused |= dict.fromkeys(lacking[image], error)
    return [file for file in missing if file[0] in chosen], {
        sha256: error for sha256, error in refused.items() if sha256 not in chosen
    }


async def pull(
    transfer: Transfer,
    store: Store,
    file_url: Callable[[Sha256], URL],
    missing: Collection[tuple[Sha256, int]],
    failed: Callable[[Sha256, BootferryError], None],
    *,
    at_once: int,
    patience: Patience,
    rng: random.Random,
    arrived: Callable[[int], None] = lambda _: None,
) -> None:
    """Fetch what is `missing` into `store`, at most `at_once` files at a time; `failed` hears at once of each that is
    not to be had now, and why; `arrived` of the bytes of each that came.

    A file that fails does not keep the others from coming, except where no other would fare better: the region is
    away, or the disk is full; those that were not tried have failed for the same reason. Bytes with a wrong digest are
    not asked for again before the next pull. Cancelling keeps what has arrived. Where all together do not fit, all fail
    by NoRoom and no byte is fetched.
    """
    hopeless: list[BootferryError] = []
    waiting = iter(missing)
    try:
        await asyncio.to_thread(store.require_room, missing)
    except NoRoom as error:
        hopeless.append(error)

    async def work() -> None:
        for sha256, size in _while_hopeful(waiting, hopeless):
            try:
                await patiently(lambda: _fetch(transfer, store, file_url, sha256, size), patience, rng)  # noqa: B023
            except BootferryError as error:
                failed(sha256, error)
                if is_regions(error) or isinstance(error, NoRoom):
                    hopeless.append(error)
            else:
                arrived(size)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(at_once, len(missing))):
            tasks.create_task(work())
    for sha256, _ in waiting:
        failed(sha256, hopeless[0])


def _while_hopeful(
    waiting: Iterator[tuple[Sha256, int]], hopeless: list[BootferryError]
) -> Iterator[tuple[Sha256, int]]:
    while not hopeless:
        try:
            yield next(waiting)
        except StopIteration:
            return


async def _fetch(
    transfer: Transfer, store: Store, file_url: Callable[[Sha256], URL], sha256: Sha256, size: int
) -> None:
    try:
        await download(transfer, store, file_url(sha256), sha256, size, _unwatched)
    except HttpStatus as error:
        if error.status == 401:
            raise InvalidRequestSignature("the region does not accept this rack") from error
        raise


def _unwatched(_arrived: int) -> None:
    """How far a file is can be seen in `incoming/`; the poll looks there every few seconds."""
