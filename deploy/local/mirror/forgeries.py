"""What can be wrong with a clear-signed document, whoever serves it. Nothing here may be believed but `HARMLESS`."""

import base64
from collections.abc import Callable, Mapping

from pysequoia import ArmorKind, SignatureMode, armor, sign

from deploy.local.mirror.key import Key

Forge = Callable[[bytes, Key, Key], bytes]
"""(the text, the mirror's own key, somebody else's) to a document."""

_FRAME = b"-----BEGIN PGP SIGNATURE-----"
_LITERAL = b"\xcb\x0bb\0\0\0\0\0evil\n"
_OTHER = b'{"format": "index:1.0", "index": {}}'


def _text_part(signed: bytes) -> bytes:
    return signed[: signed.index(_FRAME)]


def _signature(signed: bytes) -> bytes:
    return signed[signed.index(_FRAME) :]


def _packets(signed: bytes) -> bytes:
    return base64.b64decode(_signature(signed).split(b"\n\n", 1)[1].split(b"\n=", 1)[0])


def _together(*signed: bytes, more: bytes = b"") -> bytes:
    """The text of the first under the signatures of all, and other packets in the same armour."""
    return _text_part(signed[0]) + armor(b"".join(map(_packets, signed)) + more, ArmorKind.Signature).encode()


FORGERIES: Mapping[str, Forge] = {
    "no signature": lambda text, own, other: text,
    "nothing at all": lambda text, own, other: b"",
    "another key": lambda text, own, other: other.clear_sign(text),
    "the signature alone": lambda text, own, other: _signature(own.clear_sign(text)),
    "signed, but not as clear text": lambda text, own, other: sign(
        own.secret.signer(), text, mode=SignatureMode.INLINE
    ),
    "a text changed after it was signed": lambda text, own, other: own.clear_sign(text).replace(b"index", b"lndex", 1),
    "the signature of another text": lambda text, own, other: (
        _text_part(own.clear_sign(_OTHER)) + _signature(own.clear_sign(text))
    ),
    "text before": lambda text, own, other: _OTHER + b"\n" + own.clear_sign(text),
    "text after": lambda text, own, other: own.clear_sign(text) + _OTHER + b"\n",
    "two documents": lambda text, own, other: own.clear_sign(text) + own.clear_sign(_OTHER),
    "another's document, then its own": lambda text, own, other: other.clear_sign(_OTHER) + own.clear_sign(text),
    "a second text in the armour": lambda text, own, other: _together(own.clear_sign(text), more=_LITERAL),
    "a line that was never escaped": lambda text, own, other: own.clear_sign(b"a\n" + text).replace(b"\n{", b"\n-{", 1),
    "a header that changes the text": lambda text, own, other: own.clear_sign(text).replace(
        b"SHA512\n", b"SHA512\nNotDashEscaped: yes\n", 1
    ),
    "no name of a hash": lambda text, own, other: own.clear_sign(text).replace(b"Hash: SHA512\n", b"", 1),
    "cut in the text": lambda text, own, other: own.clear_sign(text)[:200],
    "cut in the signature": lambda text, own, other: own.clear_sign(text)[:-80],
    "a line too long to be read": lambda text, own, other: own.clear_sign(b'{"x": "' + b"x" * 20_000 + b'"}\n' + text),
}

HARMLESS: Mapping[str, Forge] = {
    "a second signature by a stranger": lambda text, own, other: _together(
        own.clear_sign(text), other.clear_sign(text)
    ),
    "white space after": lambda text, own, other: own.clear_sign(text) + b"\n \n",
}
