"""The cluster's own certificate authority: who is who between daemons, operators and programs.

An identity is the URI `gestalt://<cluster id>/<role>/<name>` among the certificate's alternative names. Everything is
idempotent on disk: what is there and good is kept; what an interruption left half-made is made again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gestalt.clock import wall
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.files import WRITER, Owner, ensure_private_folder, hand_over, write_atomic
from gestalt.identity import Identity as Identity
from gestalt.identity import Role as Role
from gestalt.identity import identity_of as identity_of

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
NODE_HOST = "node.gestalt"
"""The host name in every node's certificate: not `localhost`, so that a node's key cannot pose as a coordinator."""

AUTHORITY_CERTIFICATE, AUTHORITY_KEY = "ca.crt", "ca.key"

_CLOCK_SKEW = timedelta(days=1)
"""So much earlier than now is a certificate valid: a machine whose clock is behind, or is put back, still believes in it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key on disk. `made`: this call made it; otherwise it was there already."""

    certificate: Path
    key: Path
    made: bool


def identity_in(certificate: x509.Certificate) -> Identity:
    """Return the identity of a certificate.

    Raises:
        GestaltError: UNAUTHENTICATED, when it holds none.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return identity_of(())
    return identity_of(names.get_values_for_type(x509.UniformResourceIdentifier))


class Authority:
    """The certificate authority of one cluster, kept in one folder that is shut to others; keys have mode 0600."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, made: bool) -> None:
        self.folder = folder
        self.made = made
        self._certificate = certificate
        self._key = key

    @property
    def certificate(self) -> Path:
        return self.folder / AUTHORITY_CERTIFICATE

    @classmethod
    def ensure(cls, folder: Path, cluster_id: str, passphrase: bytes | None = None, *, owner: Owner = WRITER) -> Authority:
        """Return the authority in `folder`, making what is missing. With a passphrase its key is encrypted at rest.

        Args:
            folder: where it is.
            cluster_id: of which cluster it is.
            passphrase: of its key.
            owner: whose the key is, also if it is there already.

        Raises:
            GestaltError: CONFLICT, when the folder holds another cluster's authority or only a certificate, or the passphrase does not fit.
        """
        ensure_private_folder(folder, owner)
        key_file, certificate_file = folder / AUTHORITY_KEY, folder / AUTHORITY_CERTIFICATE
        if certificate_file.exists() and not key_file.exists():
            raise GestaltError(
                Kind.CONFLICT,
                f"{certificate_file} is here, but not its key {key_file}",
                hint="put the key back; without it no certificate of this cluster can be made",
            )
        if not key_file.exists():
            write_atomic(key_file, _key_bytes(ec.generate_private_key(ec.SECP256R1()), passphrase), mode=0o600, owner=owner)
        hand_over(key_file, owner)
        key = _read_key(key_file, passphrase)
        if certificate_file.exists():
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            _check_authority(certificate, key, cluster_id, certificate_file)
            return cls(folder, certificate, key, made=False)
        certificate = _authority_certificate(cluster_id, key)
        write_atomic(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, certificate, key, made=True)

    @classmethod
    def load(cls, folder: Path, cluster_id: str, passphrase: bytes | None = None) -> Authority:
        """Return the authority in `folder`, which is there.

        Raises:
            GestaltError: NOT_FOUND, when it is not whole; CONFLICT, when it is another cluster's or the passphrase does not fit.
        """
        missing = [file for file in (folder / AUTHORITY_KEY, folder / AUTHORITY_CERTIFICATE) if not file.exists()]
        if missing:
            raise GestaltError(
                Kind.NOT_FOUND, f"{missing[0]} is missing", hint="join this coordinator anew, or put the file back from a copy"
            )
        return cls.ensure(folder, cluster_id, passphrase)

    def sign(
        self,
        request: str,
        identity: Identity,
        *,
        dns: Iterable[str] = (),
        addresses: Iterable[str] = (),
        life: timedelta = LEAF_LIFE,
    ) -> str:
        """Return a certificate, PEM, for the key of a signing request. Nothing else that the request says counts.

        Raises:
            GestaltError: INVALID, when it is no request, was not signed by its key, or the key is of another sort than ours.
        """
        key = _requested_key(request)
        certificate = self._sign(identity, _alternative_names(identity, dns, addresses), key, life)
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        identity: Identity,
        stem: str,
        *,
        dns: Iterable[str] = (),
        addresses: Iterable[str] = (),
        life: timedelta = LEAF_LIFE,
        renew_before: timedelta = RENEW_BEFORE,
        owner: Owner = WRITER,
    ) -> Pair:
        """Have `<stem>.crt` and `<stem>.key` in the folder, for `identity`; both are `owner`'s.

        A pair that is whole, ours, for the same names and not about to expire is kept; anything else is replaced.
        """
        files = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        names = _alternative_names(identity, dns, addresses)
        if self._is_good(*files, names, renew_before):
            for file in files:
                hand_over(file, owner)
            return Pair(*files, made=False)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(identity, names, key.public_key(), life)
        files[0].unlink(missing_ok=True)
        write_atomic(files[1], _key_bytes(key), mode=0o600, owner=owner)
        write_atomic(files[0], certificate.public_bytes(serialization.Encoding.PEM), owner=owner)
        return Pair(*files, made=True)

    def _is_good(self, certificate_file: Path, key_file: Path, names: x509.SubjectAlternativeName, renew_before: timedelta) -> bool:
        if not (certificate_file.exists() and key_file.exists()):
            return False
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            certificate.verify_directly_issued_by(self._certificate)
            same_names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == names
            same_key = certificate.public_key() == _read_key(key_file).public_key()
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, GestaltError):
            return False
        return same_names and same_key and certificate.not_valid_after_utc - renew_before > wall()

    def _sign(
        self, identity: Identity, names: x509.SubjectAlternativeName, key: ec.EllipticCurvePublicKey, life: timedelta
    ) -> x509.Certificate:
        now = wall()
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if identity.role is not Role.USER:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        return (
            x509.CertificateBuilder()
            .subject_name(_common_name(f"{identity.role} {identity.name}"))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + life) - _CLOCK_SKEW)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _authority_certificate(cluster_id: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = wall()
    name = _common_name(f"Gestalt {cluster_id}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _check_authority(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, cluster_id: str, file: Path) -> None:
    if certificate.public_key() != key.public_key():
        raise GestaltError(Kind.CONFLICT, f"{file} and its key do not belong together", hint="put the right key back from a copy")
    if certificate.subject != _common_name(f"Gestalt {cluster_id}"):
        raise GestaltError(Kind.CONFLICT, f"{file} belongs to another cluster than {cluster_id}", hint="use another root")


def _alternative_names(identity: Identity, dns: Iterable[str], addresses: Iterable[str]) -> x509.SubjectAlternativeName:
    identity_of([identity.uri])  # refuses names that could not be read back
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    names += [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    return x509.SubjectAlternativeName(names)


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def ensure_key(file: Path, owner: Owner = WRITER) -> None:
    """Have a private key in `file`, mode 0600, that is `owner`'s. One that is there is kept."""
    if not file.exists():
        write_atomic(file, _key_bytes(ec.generate_private_key(ec.SECP256R1())), mode=0o600, owner=owner)
    hand_over(file, owner)


def signing_request(key_file: Path, name: str) -> str:
    """Return a signing request, PEM, for the key in a file.

    Raises:
        GestaltError: CONFLICT, when the file holds no key that can be used.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(_common_name(name))
    return builder.sign(_read_key(key_file), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def is_for_key(certificate: str, key_file: Path) -> bool:
    """Tell whether a certificate, PEM, is that of the key in a file."""
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).public_key() == _read_key(key_file).public_key()
    except (OSError, ValueError, GestaltError):
        return False


def is_worn(certificate: x509.Certificate, now: datetime) -> bool:
    """Tell whether less than a third of a certificate's life is left: time to renew it."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < life / 3


def _requested_key(request: str) -> ec.EllipticCurvePublicKey:
    try:
        read = x509.load_pem_x509_csr(request.encode())
        key = read.public_key() if read.is_signature_valid else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise GestaltError(
            Kind.INVALID,
            "the signing request cannot be used",
            details=[Detail("signing_request", "is not one, or not signed by its own key", "PEM of a request for a P-256 key")],
        )
    return key


def encrypt_key(file: Path, passphrase: bytes, owner: Owner = WRITER) -> None:
    """Have the private key in a file encrypted, and be `owner`'s. Idempotent.

    Raises:
        GestaltError: CONFLICT, when it cannot be read, or is encrypted with another passphrase.
    """
    key = _read_key(file, passphrase)
    if b"ENCRYPTED" not in file.read_bytes():
        write_atomic(file, _key_bytes(key, passphrase), mode=0o600, owner=owner)


def _key_bytes(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _read_key(file: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the key in a file. One that is not encrypted is read too, whatever the passphrase."""
    data = file.read_bytes()
    try:
        key = serialization.load_pem_private_key(data, password=passphrase if b"ENCRYPTED" in data else None)
    except (ValueError, TypeError) as error:
        raise GestaltError(
            Kind.CONFLICT,
            f"{file} cannot be read: it is damaged, or its passphrase is another",
            hint="put the right files back from a copy",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise GestaltError(Kind.CONFLICT, f"{file} is not an elliptic-curve key", hint="put the right key back from a copy")
    return key
