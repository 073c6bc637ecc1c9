"""Sizes in bytes, as people read them."""


def spoken_size(size: int) -> str:
    """`size` bytes as people read them: decimal units, one decimal."""
    if size < 1000:
        return f"{size} bytes"
    amount = size / 1000
    for unit in ("kB", "MB", "GB"):
        if amount < 999.95:
            return f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
