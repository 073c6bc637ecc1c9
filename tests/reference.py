"""What wins, in plain Python: the reference that the view `targets` is held against, and a catalogue for it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from region.catalogue.facts import File, Held, Target, Wish
from shared.names import ImageKey


@dataclass(frozen=True, slots=True)
class Source:
    """A source. `vouched`: a present voucher stands behind its documents; `current`: it was read under its trust."""

    id: int
    priority: int
    unsigned: bool = False
    vouched: bool = True
    current: bool = True


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a product, with what is stored of its files."""

    id: int
    name: str
    offered: bool
    held: bool
    files: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a source in one place; `listed`: the last reading has it."""

    id: int
    source_id: int
    image: ImageKey
    place: str
    listed: bool
    versions: tuple[Version, ...]
    kernel: str = "ga"
    label: str = "stable"
    bootloader: bool = False

    def lists(self) -> bool:
        """True if its source offers some version of it."""
        return self.listed and any(version.offered for version in self.versions)


def targets(
    wishes: Collection[Wish],
    sources: Iterable[Source],
    products: Collection[Product],
    pins: Mapping[ImageKey, str] | None = None,
    bootloader_source: int | None = 1,
) -> list[Target]:
    """What should be held, by image and place."""
    pinned = pins or {}
    known = {source.id: source for source in sources}
    kernel_of = {version.id: product.kernel for product in products for version in product.versions}
    wanted = [product for product in products if _is_wanted(product, wishes, bootloader_source)]
    found: list[Target] = []
    for image in {product.image for product in wanted}:
        pin = None if image.os == "bootloader" else pinned.get(image)
        of_image = [product for product in wanted if product.image == image]
        able = {
            product.source_id
            for product in of_image
            if (product.lists() if pin is None else any(version.name == pin for version in product.versions))
        }
        if not able:
            continue
        winner = max(
            (known[source_id] for source_id in able),
            key=lambda source: (not source.unsigned or _is_named(of_image, wishes, source.id), source.priority),
        )
        for place in {product.place for product in of_image}:
            candidates = [
                (version.name.encode(), -product.id, version, offered)
                for product in of_image
                if product.place == place and product.source_id == winner.id
                for version in product.versions
                for offered in [product.lists() and version.offered and winner.vouched]
                if (offered if pin is None else version.name == pin and (offered or version.held))
            ]
            if candidates:
                version, offered = max(candidates, key=lambda entry: entry[:2])[2:]
                found.append(
                    Target(
                        image=image,
                        place=place,
                        source_id=winner.id,
                        version_id=version.id,
                        version=version.name,
                        kernel=kernel_of[version.id],
                        held=version.held,
                        offered=offered,
                        current=winner.current,
                        files=version.files,
                    )
                )
    return sorted(found, key=lambda target: (target.image, target.place))


def _is_wanted(product: Product, wishes: Collection[Wish], bootloader_source: int | None) -> bool:
    if product.bootloader:
        return bool(wishes) and product.source_id == bootloader_source
    return any(_matches(wish, product) for wish in wishes)


def _matches(wish: Wish, product: Product) -> bool:
    return (
        wish.image == product.image
        and wish.source_id in (None, product.source_id)
        and wish.takes(product.kernel, product.label)
    )


def _is_named(products: Iterable[Product], wishes: Collection[Wish], source_id: int) -> bool:
    return any(
        wish.source_id == source_id and _matches(wish, product)
        for product in products
        if product.source_id == source_id
        for wish in wishes
    )


def held(products: Iterable[Product]) -> list[Held]:
    """What is held."""
    return [
        Held(
            version_id=version.id,
            version=version.name,
            source_id=product.source_id,
            image=product.image,
            place=product.place,
            kernel=product.kernel,
            label=product.label,
            bootloader=product.bootloader,
            files=version.files,
        )
        for product in products
        for version in product.versions
        if version.held
    ]
