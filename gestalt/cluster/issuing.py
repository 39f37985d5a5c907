"""What coordinators do with the authority beyond signing: open it, name themselves, and renew their own certificate."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from gestalt.clock import wall
from gestalt.config import CoordinatorSettings
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.files import write_atomic
from gestalt.pki import (
    AUTHORITY_CERTIFICATE,
    RENEW_BEFORE,
    Authority,
    Identity,
    Pair,
    Role,
    ensure_key,
    is_for_key,
    is_worn,
    signing_request,
)

from .names import check_name, split_address
from .secrets import read_secret

log = logging.getLogger(__name__)

_RESERVED = ("ca", "coordinator", "node", "zookeeper-ca")
"""What lies in the authority's folder under these names is no user's."""


@dataclass(frozen=True, slots=True)
class Names:
    """The host names and addresses in a certificate."""

    dns: tuple[str, ...]
    addresses: tuple[str, ...]


def coordinator_names(address: str) -> Names:
    """Return the names in the certificate of a coordinator that others reach at this IP address."""
    return Names(("localhost",), tuple(dict.fromkeys([address, "127.0.0.1", "::1"])))


def load_authority(settings: CoordinatorSettings) -> Authority | None:
    """Return the authority that the settings name, None where they name none.

    Raises:
        GestaltError: it cannot be used.
    """
    if settings.authority is None:
        return None
    phrase = settings.authority_passphrase
    return Authority.load(settings.authority, settings.cluster_id, read_secret(phrase).encode() if phrase is not None else None)


def renew_own(settings: CoordinatorSettings, authority: Authority) -> bool:
    """Renew the certificate of a coordinator, for the same key, when less than a third of its life is left; return whether it was.

    Only the certificate is replaced, so that it and the key belong together whatever is interrupted.

    Raises:
        GestaltError: the key cannot be used.
        OSError: the file cannot be written; the old certificate stays.
    """
    file = settings.tls.certificate
    if not is_worn(x509.load_pem_x509_certificate(file.read_bytes()), wall()):
        return False
    names = coordinator_names(split_address("advertise", settings.advertise or settings.listen)[0])
    identity = Identity(settings.cluster_id, Role.COORDINATOR, settings.name)
    request = signing_request(settings.tls.key, settings.name)
    write_atomic(file, authority.sign(request, identity, dns=names.dns, addresses=names.addresses))
    log.info("the certificate %s was renewed", file)
    return True


def issue_user(settings: CoordinatorSettings, user: str, folder: Path | None = None) -> Pair:
    """Have a certificate and a key for a user, with the authority's certificate beside them; a pair that is good for long is kept.

    `folder`: where to; None: that of the authority. A key that is there is kept in any case.

    Raises:
        GestaltError: INVALID for a name that cannot be one, REFUSED where there is no authority.
        OSError: a file cannot be written.
    """
    check_name("user", user)
    if user in _RESERVED:
        raise GestaltError(Kind.INVALID, f"user: {user!r} is taken", details=[Detail("user", "is taken", "another name")])
    authority = load_authority(settings)
    if authority is None:
        hint = "run this on a coordinator's machine; in an appliance: gestaltctl appliance init"
        raise GestaltError(Kind.REFUSED, "there is no authority on this machine", hint=hint)
    where = folder or authority.folder
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = Pair(where / f"{user}.crt", where / f"{user}.key", made=False)
    ensure_key(pair.key)
    if folder is not None:
        write_atomic(folder / AUTHORITY_CERTIFICATE, authority.certificate.read_bytes())
    if _is_good(pair):
        return pair
    request = signing_request(pair.key, user)
    write_atomic(pair.certificate, authority.sign(request, Identity(settings.cluster_id, Role.USER, user)))
    return Pair(pair.certificate, pair.key, made=True)


def _is_good(pair: Pair) -> bool:
    if not pair.certificate.exists():
        return False
    text = pair.certificate.read_text(encoding="ascii", errors="replace")
    return is_for_key(text, pair.key) and x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc - RENEW_BEFORE > wall()
