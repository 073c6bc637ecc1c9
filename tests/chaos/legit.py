"""Which bytes a machine may get: an oracle that knows the mirror and nothing of Bootferry's own reckoning."""

import io
import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256

from deploy.local.mirror.mirror import Mirror

CARRIED = ("boot-kernel", "boot-initrd", "squashfs", "root-tgz", "manifest")
"""The ftypes of an image that a rack shows."""


@dataclass(slots=True)
class Legit:
    """By the name of a rack's tree: the digests of all bytes the mirror ever offered under it, with their versions."""

    mirror: Mirror
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)

    def learn(self) -> None:
        """Take in what the mirror offers now; call it before a change is published to anybody."""
        self.newest = {}
        for product in self.mirror.products().values():
            for version in sorted(product["versions"]):
                for item in product["versions"][version]["items"].values():
                    for name, digest in self._names(product, item):
                        self.versions.setdefault(name, {})[digest] = version
                        self.newest[name] = digest

    def shown_of(self, chosen: Collection[str]) -> dict[str, str]:
        """The names that a rack shows of the images `chosen`, and of bootloaders, with the newest digests."""
        found = {}
        for name, digest in self.newest.items():
            os, *parts = name.split("/")
            if os == "bootloader" or (f"{os}:{parts[2]}:{parts[0]}" in chosen and parts[-1] in CARRIED):
                found[name] = digest
        return found

    def _names(self, product: dict[str, str], item: dict[str, str]) -> list[tuple[str, str]]:
        ftype = item["ftype"]
        if ftype == "archive.tar.xz":
            place = f"bootloader/{product['bootloader-type']}/{product['arch']}"
            packed = (self.mirror.root / item["path"]).read_bytes()
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                return [
                    (f"{place}/{member.name}", sha256(stream.read()).hexdigest())
                    for member in archive
                    if (stream := archive.extractfile(member))
                ]
        if "kflavor" not in product and product.get("os") != "centos":
            return []
        subarch, release = product["subarch"], product["release"]
        folded = [subarch]
        if product.get("kflavor", "generic") != "generic":
            branch, version, *edge = subarch.split("-")
            folded = ["-".join([branch, version, product["kflavor"], *edge])]
        elif subarch.startswith("ga-"):
            folded.append("generic")
        where = [f"{product['os']}/{product['arch']}/{each}/{release}/{product['label']}" for each in folded]
        return [(f"{place}/{ftype}", item["sha256"]) for place in where]

    def allows(self, name: str, digest: str) -> bool:
        """True if the mirror ever offered these bytes for this name."""
        return digest in self.versions.get(name, {})

    def version(self, name: str, digest: str) -> str:
        """The version that these bytes are of."""
        return self.versions.get(name, {}).get(digest, "unknown")
