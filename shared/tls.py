"""A server's certificate and key: read, checked, and read again when their files change.

- Nothing serves with a pair that does not fit together: it is refused with a sentence that says what to do.
- A pair that cannot be used never takes the place of one that can: it is told once, and the old one goes on. So does
  one that has expired, or does not count yet, while the old one counts.
- A pair whose second file is still being written is no broken pair: it is told when it is the same twice.
- TLS 1.2 with forward secrecy and AEAD ciphers, and TLS 1.3; HTTP/1.1 is what is spoken inside (RFC 7301).

A new pair counts for the connections that begin after it was taken.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from shared.errors import InvalidConfiguration
from shared.logs import logger

LOOK_EVERY_S = 5.0
MAX_FILE_BYTES = 1024 * 1024
SOON = timedelta(days=14)
"""From so long before its end, a certificate's end is told every day."""

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of TLS 1.3 are all good, and OpenSSL's."""

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, ready to serve. `files` tells whether the files are still those it was read from."""

    context: ssl.SSLContext
    begins_at: datetime
    expires_at: datetime
    files: tuple[tuple[int, ...], ...]

    def counts(self, now: datetime) -> bool:
        """True if clients that know its CA believe it now."""
        return self.begins_at <= now < self.expires_at


class Certificate:
    """The pair of one server. `pair` is the newest that could be used. Made, it raises InvalidConfiguration."""

    def __init__(
        self, certificate: Path, key: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._certificate, self._key, self._now = certificate, key, now
        self.pair = read_pair(certificate, key)
        self._failed: tuple[object, str] | None = None
        self._told: tuple[object, str] | None = None
        self._warned_at = datetime.min.replace(tzinfo=UTC)

    @property
    def context(self) -> ssl.SSLContext:
        """What a connection that begins now is answered with."""
        return self.pair.context

    def look(self) -> bool:
        """True if the files have changed and the new pair counts from now on. Blocks; raises nothing."""
        taken = self._take()
        self._warn_of_its_end()
        return taken

    def _take(self) -> bool:
        try:
            files = _identity(self._certificate), _identity(self._key)
            if files == self.pair.files:
                self._failed = None
                return False
            pair = read_pair(self._certificate, self._key)
            now = self._now()
            if self.pair.counts(now) and not pair.counts(now):
                raise InvalidConfiguration(
                    f"The TLS certificate {self._certificate} {_why_it_does_not_count(pair, now)}."
                )
        except OSError as error:
            self._failed_to_take(error.errno, f"{error.filename} cannot be read: {error.strerror}.")
        except InvalidConfiguration as error:
            self._failed_to_take(files, str(error))
        else:
            self.pair, self._failed = pair, None
            _log.info(
                f"The new TLS certificate {self._certificate} is in use; it is good until {pair.expires_at:%Y-%m-%d}.",
                action="tls",
            )
            return True
        return False

    def _failed_to_take(self, files: object, why: str) -> None:
        failed = (files, why)
        if failed == self._failed and failed != self._told:
            _log.error(f"{why} The certificate of before goes on.", action="tls")
            self._told = failed
        self._failed = failed

    def _warn_of_its_end(self) -> None:
        now = self._now()
        left = self.pair.expires_at - now
        if left > SOON or now - self._warned_at < timedelta(days=1):
            return
        self._warned_at = now
        ends = "expires" if left > timedelta() else "has expired: no client believes it. It ended"
        _log.warning(
            f"The TLS certificate {self._certificate} {ends} on {self.pair.expires_at:%Y-%m-%d at %H:%M} UTC; put a new"
            " one in its place, which is taken without a restart.",
            action="tls",
        )


async def follow(certificate: Certificate, every_s: float = LOOK_EVERY_S) -> None:
    """Take each new pair as its files come, until cancelled."""
    while True:
        try:
            await asyncio.to_thread(certificate.look)
        except Exception:
            # A fault of ours costs this look, and not all that follow.
            _log.exception("The TLS certificate could not be looked at.", action="tls")
        await asyncio.sleep(every_s)


def configured(certificate: Path | None, key: Path | None, prefix: str) -> Certificate | None:
    """The certificate that two settings name, None where neither does. Raises InvalidConfiguration."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        there, lacking = ("CERTIFICATE", "KEY") if key is None else ("KEY", "CERTIFICATE")
        raise InvalidConfiguration(
            f"{prefix}TLS_{there} is set and {prefix}TLS_{lacking} is not; set both for TLS, or neither."
        )
    return Certificate(certificate, key)


def read_pair(certificate: Path, key: Path) -> Pair:
    """The pair in two PEM files: the server's own certificate first, those that lead to its CA after it. Blocks.

    Raises InvalidConfiguration, with a sentence for each way in which a pair cannot be used.
    """
    files = _stat(certificate, "certificate"), _stat(key, "key")
    chain = _certificates(certificate)
    private = _private_key(key)
    own = _public(private)
    fitting = [number for number, one in enumerate(chain) if _public(one) == own]
    if not fitting:
        raise InvalidConfiguration(
            f"The TLS key {key} does not belong to the certificate {certificate}; give the pair that was made together."
        )
    if fitting[0] != 0:
        raise InvalidConfiguration(
            f"The TLS certificate {certificate} begins with another certificate than the key's; put the server's own"
            " first, and those of its CA after it."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A passphrase would be asked for at the terminal: there is none to answer.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "it cannot be read"
        raise InvalidConfiguration(
            f"The TLS certificate {certificate} cannot be used: {str(why).lower().replace('_', ' ')}; make another."
        ) from error
    return Pair(context, chain[0].not_valid_before_utc, chain[0].not_valid_after_utc, files)


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_content(path, "certificate"))
    except ValueError as error:
        raise InvalidConfiguration(
            f"The TLS certificate {path} holds no certificate in PEM form; give the file that begins with"
            " -----BEGIN CERTIFICATE-----."
        ) from error


def _private_key(path: Path) -> object:
    try:
        return load_pem_private_key(_content(path, "key"), None)
    except TypeError as error:
        raise InvalidConfiguration(
            f"The TLS key {path} has a passphrase, which nobody could give at a start; store it without one."
        ) from error
    except ValueError:
        # What it says may quote the file.
        raise InvalidConfiguration(f"The TLS key {path} holds no private key in PEM form.") from None


def _public(of: object) -> bytes:
    public = of.public_key()  # type: ignore[attr-defined]
    spelled: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spelled


def _content(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise _unreadable(path, what, error) from error


def _stat(path: Path, what: str) -> tuple[int, ...]:
    try:
        return _identity(path)
    except OSError as error:
        raise _unreadable(path, what, error) from error


def _unreadable(path: Path, what: str, error: OSError) -> InvalidConfiguration:
    remedy = "let the user of this service read it" if isinstance(error, PermissionError) else "check its path"
    return InvalidConfiguration(f"The TLS {what} {path} cannot be read: {error.strerror}; {remedy}.")


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced, also behind a link."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _why_it_does_not_count(pair: Pair, now: datetime) -> str:
    if now < pair.begins_at:
        return f"does not count before {pair.begins_at:%Y-%m-%d at %H:%M} UTC"
    return f"has expired on {pair.expires_at:%Y-%m-%d at %H:%M} UTC"
