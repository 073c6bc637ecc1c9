"""Every error Bootferry raises on purpose, in one tree.

An error carries data and one sentence that says what happened and what to do next; it knows no HTTP. `code` is stable:
the API answers it, the journal shows it, operators search for it.

    BootferryError
    ├── Refused                     something from outside was not acceptable
    │   ├── InvalidValue            a name, path, digest, token or message that does not parse
    │   ├── InvalidDocument         bytes that are not the simplestreams document they should be
    │   ├── Unauthenticated         no credentials; InvalidToken · TokenSpent · TokenExpired · InvalidRequestSignature
    │   │   └── InvalidRequestSignature: WrongClock · Replayed
    │   ├── Forbidden               good credentials, not enough rights; BarredKey
    │   ├── NotFound                a thing named from outside does not exist
    │   ├── Conflict                the change does not fit what is there
    │   ├── PreconditionFailed      somebody else changed the thing meanwhile
    │   └── TooManyAttempts         a log-in or an enrolment was tried too often
    ├── FetchError                  bytes could not be fetched; `url` says from where
    │   ├── NameNotFound · ConnectionRefused · ConnectionLost · TlsFailed · TimedOut · AddressForbidden
    │   ├── HttpStatus              the other side answered, but not with the bytes
    │   ├── RedirectRefused · ProxyFailed · TooLarge · TooSlow
    │   ├── MixedDocuments          a stream's documents are of two of its states
    │   └── WrongSize · WrongDigest the bytes came, and they are not the promised ones
    ├── SignatureError              what was fetched is not vouched for
    │   ├── Unsigned · UnknownSigner · WrongRegion
    │   ├── BadSignature            it does not fit; SignatureExpired · SignatureKeyRevoked · SignatureWeak
    │   ├── InvalidKeyring          no key to believe; KeyTooSmall · KeyAlgorithmRefused · KeyExpired · KeyRevoked
    │   ├── ForkedManifest          another one of the very number that was accepted before
    │   ├── TooOld                  older than what was accepted before
    │   └── TooNew                  dated days after now
    ├── CannotMove                  a rack stays where its region was: where it says it is, it is not
    ├── WaitsForConfirmation        a rack keeps what a manifest would take away, until an operator confirms that
    ├── NoRoom                      the disk cannot hold what was asked for
    │   └── NoInodes                it has bytes left, and no inodes
    ├── DiskFailed                  the disk refused to read or write
    ├── Unavailable                 a part we need is away; trying again later will do
    └── InvalidConfiguration             the process cannot start as configured
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import ClassVar

from shared.sizes import spoken_size


class BootferryError(Exception):
    """Something expected went wrong; `str(error)` is one sentence an operator can act on.

    Whatever the words of others in it are, it is one printable line that ends with one full stop.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, sentence: str) -> None:
        line = "".join(character if character.isprintable() else " " for character in sentence).strip()
        super().__init__(line if line.endswith(("?", "!", "…")) else f"{line.rstrip('. ')}.")


class Refused(BootferryError):
    """Something from outside was not acceptable. Nothing already held was changed."""

    code = "refused"


class InvalidValue(Refused):
    """A value from outside does not parse as `what`; `why` completes the sentence."""

    code = "invalid_value"

    def __init__(self, what: str, value: object, why: str) -> None:
        shown = repr(value)
        self.what, self.value, self.why = what, value, why
        article = "an" if what[:1] in tuple("aeio") else "a"
        super().__init__(f"{shown if len(shown) <= 120 else shown[:117] + '...'} is not {article} {what}: {why}.")


class InvalidDocument(Refused):
    """Bytes that should be a document of a stream, or a message of ours, are not; `where` names the document."""

    code = "invalid_document"

    def __init__(self, where: str, why: str) -> None:
        self.where, self.why = where, why
        super().__init__(f"{where} cannot be read: {why}.")


class Unauthenticated(Refused):
    """The caller did not prove who it is."""

    code = "unauthenticated"

    def __init__(
        self, sentence: str = "The request names nobody; send an operator token as 'Authorization: Bearer bf_…'."
    ) -> None:
        super().__init__(sentence)


class InvalidToken(Unauthenticated):
    """An operator or enrolment token is not one this region has issued, or was removed."""

    code = "token_unknown"

    def __init__(
        self, sentence: str = "This token is not known to the region; ask an administrator for a new one."
    ) -> None:
        super().__init__(sentence)


class TokenSpent(Unauthenticated):
    """A one-time enrolment token was used before."""

    code = "token_spent"

    def __init__(self, sentence: str = "This enrolment token was used already; make a new one.") -> None:
        super().__init__(sentence)


class TokenExpired(Unauthenticated):
    """A token was good once; its time is over."""

    code = "token_expired"

    def __init__(self, sentence: str = "This token has expired; ask an administrator for a new one.") -> None:
        super().__init__(sentence)


class InvalidRequestSignature(Unauthenticated):
    """A rack's request is not signed by a key the region has enrolled, or was not signed just now."""

    code = "request_signature_invalid"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"The request's signature is not good: {why}; check the rack's clock, or enrol it again.")


class WrongClock(InvalidRequestSignature):
    """A rack's message is as it must be, but for its time: `behind_s` seconds (ahead: negative) from the region's.

    `correction` is what the region tells the rack about it, signed, for the message with this `nonce`.
    """

    code = "wrong_clock"

    def __init__(self, now: str, behind_s: float, nonce: str = "") -> None:
        self.behind_s, self.nonce, self.correction = behind_s, nonce, ""
        where = "behind" if behind_s > 0 else "ahead"
        self.why = f"it was made at another time than now, {now}"
        super(InvalidRequestSignature, self).__init__(
            f"The request was made at another time than now, {now}: the rack's clock is {abs(behind_s):.0f} seconds"
            f" {where} of the region's; set whichever of the two is wrong."
        )


class Replayed(InvalidRequestSignature):
    """A rack's request says no greater sequence than one before; `sequence` is the greatest that was said.

    `correction` is what the region tells the rack about it, signed, for the request with this `nonce`.
    """

    code = "replayed"

    def __init__(self, sequence: int, nonce: str = "") -> None:
        self.sequence, self.nonce, self.correction = sequence, nonce, ""
        self.why = "it was sent before"
        super(InvalidRequestSignature, self).__init__(
            "The request was sent before, or after one that the rack made later; it is not carried out."
        )


class Forbidden(Refused):
    """The caller is known and may not do this."""

    code = "forbidden"


class BarredKey(Forbidden):
    """A rack asks to be known by the key of a rack that was removed."""

    code = "key_barred"

    def __init__(self) -> None:
        super().__init__(
            "This key belonged to a rack that was removed, or has another one now, and opens nothing any more; make"
            " another one on the rack: bootferry-rack enrol --again."
        )


class NotFound(Refused):
    """There is no `noun` called `name`."""

    code = "not_found"

    def __init__(self, noun: str, name: object) -> None:
        self.noun, self.name = noun, name
        super().__init__(f"There is no {noun} {name}; check the name, or whether it was removed.")


class Conflict(Refused):
    """The change does not fit the present state; the sentence says which change would."""

    code = "conflict"


class PreconditionFailed(Refused):
    """The thing was changed since the caller saw it; the sentence says who did."""

    code = "precondition_failed"


class TooManyAttempts(Refused):
    """Too many attempts failed, `what` says which; `retry_after` seconds from now another may be made."""

    code = "too_many_attempts"

    def __init__(self, retry_after: int, what: str = "log-ins failed from this address") -> None:
        self.retry_after = retry_after
        super().__init__(f"Too many {what}; try again in {retry_after} seconds.")


class FetchError(BootferryError):
    """Bytes could not be fetched from `url`."""

    code = "fetch_failed"

    def __init__(self, url: str, sentence: str) -> None:
        self.url = url
        super().__init__(sentence)


class NameNotFound(FetchError):
    """The host name in the URL does not resolve."""

    code = "name_not_found"

    def __init__(self, url: str, host: str) -> None:
        self.host = host
        super().__init__(url, f"The name {host} was not found; check the URL {url} and this machine's DNS.")


class ConnectionRefused(FetchError):
    """The host exists; nothing answers at that address and port."""

    code = "connection_refused"

    def __init__(self, url: str) -> None:
        super().__init__(url, f"Nothing answers at {url}; check that the server runs and no firewall is in the way.")


class ConnectionLost(FetchError):
    """The connection ended in the middle; trying again resumes."""

    code = "connection_lost"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, f"The connection to {url} was lost ({why}); what has arrived is kept and resumed.")


class TlsFailed(FetchError):
    """No trusted TLS session could be set up."""

    code = "tls_failed"

    def __init__(self, url: str, why: str, remedy: str = "check its certificate or name a CA bundle") -> None:
        super().__init__(url, f"No trusted TLS session with {url} ({why}); {remedy}.")


class TimedOut(FetchError):
    """The other side did not answer, or stopped sending, for `seconds`."""

    code = "timed_out"

    def __init__(self, url: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(url, f"{url} did not answer within {seconds:g} seconds; try again or check the network.")


class AddressForbidden(FetchError):
    """The URL leads to an address no request may go to, or a redirect leads from a public to a private one."""

    code = "address_forbidden"

    def __init__(self, url: str, address: str) -> None:
        super().__init__(
            url,
            f"{url} leads to {address}, where no request may go (it is link-local, reserved, a cloud's metadata, or"
            " private behind a redirect from a public address); name the mirror's own address.",
        )


class HttpStatus(FetchError):
    """The other side answered `status` instead of the bytes; `problem` is its own error code where it gave one.

    `retry_after` is how many seconds it asks to be left alone for; 0 where it does not say.
    """

    code = "http_status"

    def __init__(self, url: str, status: int, detail: str = "", problem: str = "", retry_after: float = 0.0) -> None:
        self.status, self.detail, self.problem, self.retry_after = status, detail, problem, retry_after
        advice = "; it is busy, or broken: try again later" if status == 429 or status >= 500 else "; check the URL"
        super().__init__(url, f"{url} answered {status}{': ' + detail.strip() if detail.strip() else advice}")


class RedirectRefused(FetchError):
    """A redirect was not followed: too many, from https to http, or not to http at all."""

    code = "redirect_refused"

    def __init__(self, url: str, target: str, why: str) -> None:
        super().__init__(url, f"The redirect from {url} to {target} was not followed: {why}.")


class ProxyFailed(FetchError):
    """The proxy on the way to `url` cannot be reached or refuses to connect."""

    code = "proxy_failed"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, f"The proxy on the way to {url} failed ({why}); check the proxy setting.")


class TooLarge(FetchError):
    """The answer is larger than anything of its kind may be; reading stopped at `cap` bytes."""

    code = "too_large"

    def __init__(self, url: str, cap: int) -> None:
        self.cap = cap
        super().__init__(url, f"{url} is larger than {spoken_size(cap)}, the most such a document may be.")


class TooSlow(FetchError):
    """The bytes came slower than `floor` bytes per second for a while, or not all of them within `seconds`."""

    code = "too_slow"

    def __init__(self, url: str, floor: int = 0, *, seconds: float = 0.0) -> None:
        slowly = (
            f"sends less than {spoken_size(floor)} per second" if floor else f"was not done in {seconds:.0f} seconds"
        )
        super().__init__(url, f"{url} {slowly}; it is tried again, and a file goes on where it stopped.")


class MixedDocuments(FetchError):
    """A product file is older or newer than the index says: the two are of different states of the mirror."""

    code = "mixed_documents"

    def __init__(self, url: str, found: datetime, promised: datetime) -> None:
        self.found, self.promised = found, promised
        super().__init__(
            url,
            f"{url} is of {found} where the index says {promised}: they are of two states of the mirror;"
            " what is held stays.",
        )


class WrongSize(FetchError):
    """The file does not have the size its metadata promises (bytes)."""

    code = "wrong_size"

    def __init__(self, url: str, expected: int, found: int) -> None:
        self.expected, self.found = expected, found
        super().__init__(
            url, f"{url} has {found} bytes where its metadata promises {expected}; the mirror is inconsistent."
        )


class WrongDigest(FetchError):
    """The bytes are complete and their SHA-256 is not the promised one."""

    code = "wrong_digest"

    def __init__(self, url: str, expected: str, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(
            url,
            f"{url} has the SHA-256 {found[:12]}… where its metadata promises {expected[:12]}…; nothing was kept.",
        )


class SignatureError(BootferryError):
    """What was fetched is not vouched for by whom it must be."""

    code = "signature_invalid"


class Unsigned(SignatureError):
    """`url` carries no signature where one is required."""

    code = "unsigned"

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(f"{url} is not signed; give the source's signed address, or declare the source unsigned.")


class UnknownSigner(SignatureError):
    """The signature is by a key outside the keyring. Key ids are 16 or 40 hexadecimal digits."""

    code = "signature_unknown_key"

    def __init__(self, url: str, signed_by: str, wanted: Iterable[str]) -> None:
        self.url, self.signed_by, self.wanted = url, signed_by, tuple(wanted)
        trusted = ", ".join(self.wanted) or "none"
        super().__init__(
            f"{url} is signed by key {signed_by}, which the keyring does not hold (it holds {trusted}); ask the"
            " mirror's owner which key is right."
        )


class BadSignature(SignatureError):
    """The signature does not fit the bytes, or cannot be relied on; `why` completes the sentence."""

    code = "signature_bad"

    def __init__(self, url: str, why: str) -> None:
        self.url, self.why = url, why
        # Messages of ours are named as a sentence begins: "The manifest".
        signed = f"the{url[3:]}" if url.startswith("The ") else url
        super().__init__(f"The signature of {signed} is not good: {why}.")


class SignatureExpired(BadSignature):
    """The signature's time, or that of the key that made it, is over."""

    code = "signature_expired"


class SignatureKeyRevoked(BadSignature):
    """The owner of the key that made the signature has revoked it."""

    code = "signature_key_revoked"


class SignatureWeak(BadSignature):
    """The signature was made with a hash for which another text can be found."""

    code = "signature_weak"


class InvalidKeyring(SignatureError):
    """`subject`, a keyring or a key of it, cannot be used; `why` completes the sentence."""

    code = "keyring_invalid"

    def __init__(self, why: str, *, subject: str = "The keyring") -> None:
        self.why, self.subject = why, subject
        super().__init__(f"{subject} cannot be used: {why}.")


class KeyTooSmall(InvalidKeyring):
    """A key has so few bits that others can compute its secret part."""

    code = "key_too_small"

    def __init__(self, fingerprint: str, bits: int, least: int) -> None:
        self.fingerprint, self.bits, self.least = fingerprint, bits, least
        super().__init__(
            f"it is an RSA key of {bits} bits where {least} are the least; ask the mirror for its present key",
            subject=f"The key {fingerprint}",
        )


class KeyAlgorithmRefused(InvalidKeyring):
    """A key is of a kind whose signatures are not believed: DSA, one that only encrypts, or an unknown one."""

    code = "key_algorithm"

    def __init__(self, fingerprint: str, algorithm: str) -> None:
        self.fingerprint, self.algorithm = fingerprint, algorithm
        super().__init__(
            f"its kind is {algorithm}, and only RSA, ECDSA and EdDSA keys are believed",
            subject=f"The key {fingerprint}",
        )


class KeyExpired(InvalidKeyring):
    """A key says of itself that its time is over."""

    code = "key_expired"

    def __init__(self, fingerprint: str, expired_at: datetime) -> None:
        self.fingerprint, self.expired_at = fingerprint, expired_at
        super().__init__(
            f"it expired on {expired_at:%Y-%m-%d}; ask the mirror for its new key, or for this one with a later date",
            subject=f"The key {fingerprint}",
        )


class KeyRevoked(InvalidKeyring):
    """A key was revoked by its owner."""

    code = "key_revoked"

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        super().__init__("its owner has revoked it; ask the mirror for its new key", subject=f"The key {fingerprint}")


class WrongRegion(SignatureError):
    """The region's key is not the one this rack (or its token) knows."""

    code = "wrong_region"

    def __init__(self, expected: str, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(
            f"The region's key has the fingerprint {found[:16]}… and not {expected[:16]}…; check the region's address,"
            " or enrol this rack again."
        )


class ForkedManifest(SignatureError):
    """A correctly signed manifest has the epoch and serial of one accepted before and says something else."""

    code = "forked_manifest"

    def __init__(self, epoch: int, serial: int) -> None:
        self.epoch, self.serial = epoch, serial
        super().__init__(
            f"The region has signed two manifests as epoch {epoch}, serial {serial}, of which the first stays; its"
            " database was probably restored: run 'bootferry-region new-epoch' there."
        )


class TooOld(SignatureError):
    """A correctly signed document is older than one accepted before: a replay, or a mirror gone back in time."""

    code = "too_old"

    def __init__(self, what: str, found: datetime | str, floor: datetime | str) -> None:
        self.what, self.found, self.floor = what, found, floor
        super().__init__(f"{what} is of {found}, older than one of {floor} accepted before; what is held stays.")


class CannotMove(BootferryError):
    """A rack stays at the address `stays` of its region: at `url`, where it should be by its own word, it is not."""

    code = "cannot_move"

    def __init__(self, url: str, stays: str, why: str) -> None:
        self.url, self.stays, self.why = url, stays, why
        super().__init__(
            f"This rack stays at {stays}, though the region says that it is reached at {url[:200]}, which does not"
            f" answer as the region does: {why}."
        )


class WaitsForConfirmation(BootferryError):
    """The manifest `order` would take the images `taken` away from a rack, out of the `shown` ones it shows."""

    code = "waits_for_confirmation"

    def __init__(self, order: tuple[int, int], taken: Sequence[str], shown: int) -> None:
        self.order, self.taken, self.shown = order, tuple(taken), shown
        named = ", ".join(self.taken[:3]) + (f" and {len(self.taken) - 3} more" if len(self.taken) > 3 else "")
        super().__init__(
            f"The region's manifest (epoch {order[0]}, serial {order[1]}) would take away {len(self.taken)} of the"
            f" {shown} images this rack shows ({named}); they stay until an operator confirms that: bootferry"
            " rack confirm"
        )


class TooNew(SignatureError):
    """A document is dated so far after now that it would bar all true ones after it."""

    code = "too_new"

    def __init__(self, what: str, found: datetime, now: datetime) -> None:
        self.what, self.found, self.now = what, found, now
        super().__init__(
            f"{what} is of {found}, more than a day after now, which is {now:%Y-%m-%d %H:%M} on this machine; what"
            " is held stays: check its clock, or tell the mirror's owner."
        )


class NoRoom(BootferryError):
    """`needed` bytes do not fit into the `free` bytes of the disk below `path`. Nothing was written."""

    code = "no_room"

    def __init__(self, path: str, needed: int, free: int) -> None:
        self.path, self.needed, self.free = path, needed, free
        super().__init__(
            f"{spoken_size(needed)} are needed below {path} and {spoken_size(free)} are free;"
            " free some room or select fewer images."
        )


class NoInodes(NoRoom):
    """The file system below `path` has `free` bytes and no inodes: no further file can be made."""

    code = "no_inodes"

    def __init__(self, path: str, needed: int, free: int) -> None:
        super().__init__(path, needed, free)
        BootferryError.__init__(
            self,
            f"No more files can be made below {path}: its file system has no inodes left, although"
            f" {spoken_size(free)} are free; remove files that others keep there, or move the directory",
        )


class DiskFailed(BootferryError):
    """The disk below `path` refused to read or write; the operating system's own words are in the sentence."""

    code = "disk_failed"

    def __init__(self, path: str, error: OSError) -> None:
        self.path = path
        super().__init__(
            f"The disk below {path} failed ({error.strerror or error}); what is held is untouched: check the disk and"
            " the permissions on it."
        )


class Unavailable(BootferryError):
    """A part this process needs is away; `retry_after` seconds from now is a good time to ask again.

    `happened` begins the sentence and has a verb: "The database does not answer".
    """

    code = "unavailable"

    def __init__(self, happened: str, retry_after: int = 5) -> None:
        self.happened, self.retry_after = happened, retry_after
        super().__init__(f"{happened}; try again in {retry_after} seconds.")


class InvalidConfiguration(BootferryError):
    """The process cannot start as configured; the sentence names the setting."""

    code = "invalid_configuration"
