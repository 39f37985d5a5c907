"""Why a coordinator may have refused our certificate, found by looking at the files."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gestalt.clock import wall
from gestalt.errors import GestaltError, Kind

_HINT = "get a new one: in the appliance gestaltctl appliance init; on a coordinator's machine gestaltctl cluster certificate USER"


def check_certificate(certificate_file: Path, key_file: Path, ca_file: Path) -> None:
    """Return when the files look right: valid now, issued by the CA, and the key is that of the certificate.

    Raises:
        GestaltError: UNAUTHENTICATED, with what is wrong.
    """
    problem = _problem(certificate_file, key_file, ca_file)
    if problem:
        raise GestaltError(Kind.UNAUTHENTICATED, problem, hint=_HINT)


def _problem(certificate_file: Path, key_file: Path, ca_file: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        authority = x509.load_pem_x509_certificate(ca_file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        return f"{certificate_file}, {key_file} or {ca_file} cannot be used: {error}"
    if certificate.not_valid_after_utc < wall():
        return f"the certificate {certificate_file} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if certificate.not_valid_before_utc > wall():
        return f"the certificate {certificate_file} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
    if certificate.public_key() != key.public_key():
        return f"{key_file} is not the key of the certificate {certificate_file}"
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return f"the certificate {certificate_file} was not issued by the CA {ca_file}"
    return ""
