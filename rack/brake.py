"""The rack's brake: a manifest that would take away much of what machines boot from waits for an operator. Pure.

- Counted are images, those that the tree shows against those that the manifest names. More than half of them, which is
  all of them too, is much; half is not.
- An operator confirms at the region: the manifest's `confirmed` is then greater than any this rack has accepted. It
  counts up to the manifest's own number only, so that no manifest confirms what comes after it.
- What an image consists of does not count: a new version is a replacement, and it must come whole before it shows.

Not done here: keeping the manifest that waits. The poll keeps it, in memory, and looks at it again each time.
"""

from collections.abc import Collection

from shared.errors import WaitsForConfirmation
from shared.wire.manifest import Manifest, Order


def confirmed(manifest: Manifest, accepted: Order) -> Order:
    """The last manifest of which an operator confirmed a large removal, once `manifest` is accepted; it never falls."""
    return max(accepted, min(manifest.confirmed, manifest.order))


def require_confirmed(manifest: Manifest, shown: Collection[str], accepted: Order) -> None:
    """Raises WaitsForConfirmation when `manifest` takes away much of the images `shown` and nobody has confirmed that.

    `accepted` is the last confirmation that this rack has accepted.
    """
    taken = set(shown) - manifest.images().keys()
    if 2 * len(taken) > len(set(shown)) and confirmed(manifest, accepted) <= accepted:
        raise WaitsForConfirmation(manifest.order, sorted(taken), len(set(shown)))
