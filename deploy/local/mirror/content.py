"""The bytes of a mirror's files: each follows from its path and the mirror's seed, and from nothing else."""

import io
import lzma
import tarfile
from collections.abc import Iterable
from hashlib import sha256

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

# Bytes a file of each ftype has, about: a thousandth to a fortieth of the real ones, in fair proportion. What one
# Ubuntu LTS needs (5 kernels, 1 squashfs) comes to some 18 MB. For an archive it is the size of each member.
SAMPLE = {
    "boot-kernel": 400_000,
    "boot-initrd": 2_000_000,
    "squashfs": 6_000_000,
    "root-tgz": 8_000_000,
    "manifest": 20_000,
    "archive.tar.xz": 120_000,
}
# Sizes for tests: the whole tree is under a megabyte, and still every file has a size of its own.
TINY = {
    "boot-kernel": 1_000,
    "boot-initrd": 2_000,
    "squashfs": 6_000,
    "root-tgz": 8_000,
    "manifest": 400,
    "archive.tar.xz": 500,
}


def make_file(path: str, *, ftype: str, size: int, seed: int, members: Iterable[str] = ()) -> bytes:
    """The file at `path`, the same in every process and on every machine; `size` is met within an eighth.

    A manifest is text, an `archive.tar.xz` a real archive of `members`, anything else noise that no other path has
    and in which no block repeats, so that bytes from a wrong offset never pass for the right ones.
    """
    size += int.from_bytes(sha256(path.encode()).digest()[:4]) % (size // 8)
    if ftype == "manifest":
        return _package_list(path, size, seed)
    if ftype == "archive.tar.xz":
        return _archive(path, members, size, seed)
    return _noise(path, size, seed)


def _noise(name: str, size: int, seed: int) -> bytes:
    key = sha256(f"{seed}:{name}".encode()).digest()
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def _package_list(path: str, size: int, seed: int) -> bytes:
    """Lines of package, tab, version: what `dpkg-query -W` prints and Ubuntu's manifests hold."""
    noise = _noise(path, size // 20 * 2, seed)
    lines = [
        f"package{i:04}\t{a % 9}.{b}-0ubuntu{a % 5}\n" for i, (a, b) in enumerate(zip(*[iter(noise)] * 2, strict=True))
    ]
    return "".join(lines).encode()


def _archive(path: str, members: Iterable[str], size: int, seed: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = size, 0o644
            archive.addfile(member, io.BytesIO(_noise(f"{path}/{name}", size, seed)))
    return lzma.compress(packed.getvalue(), preset=0)
