"""Kernels and labels as a selection names them. Pure.

- A kernel's own name means that kernel: `ga-24.04`, `hwe-24.04-lowlatency-edge`, `generic`.
- A kind is a kernel's name without the number (or letter) of its release, and means that kernel of every release: `ga`,
  `hwe`, `hwe-edge`, `ga-lowlatency`, `hwe-lowlatency-edge`. It has the flavour that the name has and no other: `hwe`
  is neither `hwe-24.04-lowlatency` nor `hwe-24.04-edge`.
- `*` means all. A label is meant by its own name, or by `*`.

    >>> is_kernel("hwe", "hwe-24.04"), is_kernel("hwe", "hwe-24.04-edge")
    (True, False)
"""

import re

ALL = "*"

_NUMBERED = re.compile(r"(?P<branch>ga|hwe)-(?:[0-9]+\.[0-9]+|[a-z])(?P<flavour>(?:-[a-z0-9.+]+)*)")


def is_kernel(said: str, kernel: str) -> bool:
    """True if the kernel is what `said` means."""
    return said in (ALL, kernel, kind(kernel))


def is_label(said: str, label: str) -> bool:
    """True if the label is what `said` means."""
    return said in (ALL, label)


def kind(kernel: str) -> str:
    """The kernel's name without the number of its release; the name itself where it has none."""
    found = _NUMBERED.fullmatch(kernel)
    return f"{found['branch']}{found['flavour']}" if found else kernel
