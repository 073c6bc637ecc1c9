"""How long, and in how much memory, a product file is decoded: real ones, large ones, and hostile ones of 32 MiB.

    python -m tests.bench.documents [--stream DIR]

DIR holds `streams/v1/*.json`; without it the sample mirror's small stream is taken. Beside it, in the same run, stands
what a document cost when the standard library's json built all of it. Each number is that of a process of its own.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from region.stream.documents import parse_products
from shared.errors import InvalidDocument

HOSTILE_BYTES = 32 * 1024 * 1024 - 1024
HEAD = b'{"format": "products:1.0", "updated": "Thu, 23 Jul 2026 10:07:14 +0000", "content_id": "c", "products": {'


def filled(begin: bytes, parts: Iterator[bytes], end: bytes) -> bytes:
    """As many of the parts as fit into what a document may have."""
    whole = bytearray(HEAD + begin)
    for number, part in enumerate(parts):
        if len(whole) + len(part) > HOSTILE_BYTES:
            break
        whole += b"," * bool(number) + part
    return bytes(whole + end + b"}}")


def numbered(form: str) -> Iterator[bytes]:
    return (form.replace("#", str(number)).encode() for number in range(10**9))


def many(real: bytes) -> bytes:
    """The document over and over, with releases of other names, up to some 22 MB."""
    document = json.loads(real)
    products = document["products"]
    document["products"] = {
        f"{name}:{number}": {**product, "release": f"{product.get('release', 'x')}{number}"}
        for number in range(max(1, 22_000_000 // len(real)))
        for name, product in products.items()
    }
    return json.dumps(document).encode()


def cases(real: bytes) -> dict[str, Callable[[], bytes]]:
    archive = '"os": "a", "arch": "b", "label": "c", "bootloader-type": "d", "ftype": "archive.tar.xz"'
    return {
        "the stream's largest": lambda: real,
        "the same, 22 MB of it": lambda: many(real),
        "lists in a field nobody reads": lambda: filled(b'"p": {"x": [', numbered("[]"), b"]}"),
        "products without end": lambda: filled(b"", numbered('"#": {}'), b""),
        "versions without end": lambda: filled(b'"p": {"versions": {', numbered('"#": {}'), b"}}"),
        "items without end": lambda: filled(b'"p": {"versions": {"1": {"items": {', numbered('"#": {}'), b"}}}}"),
        "99,000 good items": lambda: filled(
            f'"p": {{{archive}, "size": 1, "versions": {{"1": {{"items": {{'.encode(),
            (f'"k{n}": {{"path": "p/{n}", "sha256": "{n:064x}"}}'.encode() for n in range(99_000)),
            b"}}}}",
        ),
        "49,000 bad products": lambda: filled(
            b"",
            (f'"{n}": {{{archive}, "versions": {{"1": {{"items": {{"i": {{}}}}}}}}}}'.encode() for n in range(49_000)),
            b"",
        ),
    }


def with_json(payload: bytes) -> None:
    json.loads(payload.decode("utf-8"), object_pairs_hook=dict)


def with_ours(payload: bytes) -> None:
    try:
        parse_products(payload, "a document")
    except InvalidDocument as error:
        assert "than any document may have" in str(error) or "the most it may have" in str(error)


def once(work: Callable[[bytes], None], path: Path, answer: Connection) -> None:
    payload = path.read_bytes()
    before = most_mib()
    began = time.perf_counter()
    work(payload)
    took = time.perf_counter() - began
    answer.send((took, most_mib() - before))


def most_mib() -> float:
    """The most memory this process had so far. (`ru_maxrss` begins with that of the parent.)"""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def measured(work: Callable[[bytes], None], path: Path) -> str:
    """Milliseconds, and MiB above what the process had before."""
    mine, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=once, args=(work, path, its))
    process.start()
    took, grown = mine.recv()
    process.join()
    return f"{took * 1000:.0f} | {grown:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stream", type=Path, help="the root of a mirror's metadata")
    root = parser.parse_args().stream
    with tempfile.TemporaryDirectory() as scratch:
        root = root or Mirror.create(Path(scratch) / "upstream", now=datetime.now(UTC), sizes=TINY).root
        files = [path for path in (root / "streams/v1").glob("*.json") if path.name != "index.json"]
        real = max((path.read_bytes() for path in files), key=len)
        tell(real, Path(scratch) / "document.json")


def tell(real: bytes, path: Path) -> None:
    print("| document | MB | ours, ms | ours, MiB | json alone, ms | json alone, MiB |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, make in cases(real).items():
        path.write_bytes(make())
        size = path.stat().st_size / 1e6
        print(f"| {name} | {size:.1f} | {measured(with_ours, path)} | {measured(with_json, path)} |")


if __name__ == "__main__":
    main()
