"""The OpenPGP key a mirror signs its stream with."""

from dataclasses import dataclass
from typing import Self

from pysequoia import Profile, SignatureMode, Tsk, sign

USER_ID = "Bootferry sample mirror <mirror@example.invalid>"


@dataclass(frozen=True)
class Key:
    """A throwaway key whose clear signatures gpgv accepts: version 4 packets (RFC 4880), Ed25519, one SHA512 header."""

    secret: Tsk

    @classmethod
    def generate(cls, user_id: str = USER_ID) -> Self:
        return cls(Tsk.generate(user_ids=[user_id], profile=Profile.RFC4880))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The key that `bytes(key)` wrote; armoured keys are read too."""
        return cls(Tsk.from_bytes(data))

    def __bytes__(self) -> bytes:
        """The secret key, binary. Whoever writes it to disk makes it mode 0600."""
        return bytes(self.secret)

    @property
    def keyring(self) -> bytes:
        """The public key, binary: gpgv reads no armour in `--keyring`."""
        return bytes(self.secret.extract_certificate())

    @property
    def fingerprint(self) -> str:
        """40 capital hex digits of the primary key: the last field of gpgv's VALIDSIG, whose first is the subkey's."""
        return self.secret.extract_certificate().fingerprint.upper()

    @property
    def key_id(self) -> str:
        """The last 16 digits of the fingerprint."""
        return self.fingerprint[-16:]

    def clear_sign(self, text: bytes) -> bytes:
        """`text` in the cleartext signature framework (RFC 4880, section 7). The salt makes every result different."""
        return sign(self.secret.signer(), text, mode=SignatureMode.CLEAR)
