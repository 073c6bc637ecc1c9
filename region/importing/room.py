"""Room: which images fit on the disk, when not all do. One that does not fit keeps no other from coming.

Bootloaders come first, without which nothing boots; then the images that need least, so that as many as possible come.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from region.importing.plan import Import
from shared.digest import Sha256
from shared.errors import DiskFailed, NoRoom
from shared.names import ImageKey
from shared.store.base import Store


def too_large(store: Store, imports: Sequence[Import]) -> dict[ImageKey, NoRoom | DiskFailed]:
    """The images of `imports` whose files do not fit beside those of the others, all with what they need together.

    Blocks. Raises OSError.
    """
    files = {file.sha256: file.size for entry in imports for file in entry.missing}
    lacking = {sha256: store.bytes_missing([(sha256, size)]) for sha256, size in files.items()}
    left_over, needed, left = divide(imports, lacking, store.bytes_free())
    return dict.fromkeys(left_over, NoRoom(store.where, needed, left))


def divide(imports: Iterable[Import], lacking: Mapping[Sha256, int], free: int) -> tuple[set[ImageKey], int, int]:
    """The images that do not fit into `free` bytes, the bytes they need together, and those that the others leave.

    `lacking` has the bytes that each missing file still needs. A file that images share is counted once. Pure.
    """
    files: dict[tuple[bool, ImageKey], set[Sha256]] = defaultdict(set)
    for entry in imports:
        files[not entry.bootloader, entry.image].update(file.sha256 for file in entry.missing)
    waiting = sorted(files, key=lambda key: (key[0], sum(lacking[sha256] for sha256 in files[key]), key[1]))
    coming: set[Sha256] = set()

    def needed(*keys: tuple[bool, ImageKey]) -> int:
        return sum(lacking[sha256] for sha256 in {sha256 for key in keys for sha256 in files[key]} - coming)

    # Whatever comes may bring a file that another one waits for.
    while (fits := next((key for key in waiting if needed(key) <= free), None)) is not None:
        free -= needed(fits)
        coming |= files[fits]
        waiting.remove(fits)
    return {image for _, image in waiting}, needed(*waiting), free
