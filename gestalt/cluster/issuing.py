"""What coordinators do with the authority beyond signing: open it, name themselves, and renew their own certificate."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cryptography import x509

from gestalt.clock import wall
from gestalt.config import CoordinatorSettings
from gestalt.files import write_atomic
from gestalt.pki import Authority, Identity, Role, is_worn, signing_request

from .names import split_address
from .secrets import read_secret

log = logging.getLogger(__name__)


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
