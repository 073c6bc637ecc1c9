"""A throwaway certificate authority, and the certificates of servers."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Authority:
    """A throwaway certificate authority; `bundle` is the file a client is told to trust."""

    key: ec.EllipticCurvePrivateKey
    name: x509.Name
    directory: Path

    @classmethod
    def create(cls, directory: Path) -> "Authority":
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bootferry test authority")])
        authority = cls(ec.generate_private_key(ec.SECP256R1()), name, directory)
        own = authority._builder(name, authority.key, NOW + timedelta(days=1))
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        own = own.add_extension(_SIGNS_CERTIFICATES, critical=True)
        authority.bundle.write_bytes(own.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return authority

    @property
    def bundle(self) -> Path:
        return self.directory / "authority.pem"

    def context(self, *names: str, until: datetime = NOW + timedelta(days=1)) -> ssl.SSLContext:
        """What a server of these names presents."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.pair(*names, until=until))
        return context

    def pair(
        self,
        *names: str,
        until: datetime = NOW + timedelta(days=1),
        begins: datetime = NOW - timedelta(days=2),
        into: Path | None = None,
    ) -> tuple[Path, Path]:
        """The files of a certificate and its key for a server of these names; `into` is where the two are put."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        certificate = self._builder(subject, key, until, begins).add_extension(alternatives, critical=False)
        base = into or self.directory / f"{names[0]}-{until:%s}"
        paths = base.with_name(f"{base.name}.pem"), base.with_name(f"{base.name}.key")
        for path, content in zip(
            paths,
            (
                certificate.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM),
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ),
            strict=True,
        ):
            # As those who renew certificates do: no half file is ever seen.
            path.with_suffix(".new").write_bytes(content)
            path.with_suffix(".new").replace(path)
        return paths

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        until: datetime,
        begins: datetime = NOW - timedelta(days=2),
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(until)
            # Python asks for all that RFC 5280 does since 3.13.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
