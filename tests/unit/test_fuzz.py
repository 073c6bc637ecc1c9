"""Spoiled bytes, for each parser of what comes from outside: a few hundred ways, the same in every run."""

import random
from contextlib import suppress

import pytest

from shared.errors import BootferryError
from tests.fuzz.targets import TARGETS

TIMES = 400
PIECES = (b"", b"\0", b"\xff", b'"', b"{", b"[", b"-1", b"1e999", b"../", b"null", b"\\ud800", b"=", b"\n", b"9" * 30)


def spoiled(seed: bytes, rng: random.Random) -> bytes:
    """`seed` with one to four places changed, left out, doubled or filled with something else."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 64)))
        data[start:stop] = rng.choice((*PIECES, rng.randbytes(1), bytes(data[start:stop]) * 2))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_bytes_are_refused_or_sound(name: str) -> None:
    target, rng = TARGETS[name], random.Random(name)
    for seed in target.seeds:
        target.read(seed)
        for _ in range(TIMES // len(target.seeds)):
            with suppress(BootferryError):
                target.read(spoiled(seed, rng))
