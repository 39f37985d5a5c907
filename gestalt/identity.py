"""Who is who, as certificates say it: apart from the authority, so that who only asks does not load the cryptography."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gestalt.errors import GestaltError, Kind

_URI = re.compile(r"gestalt://([A-Za-z0-9-]+)/(node|coordinator|user)/([A-Za-z0-9][A-Za-z0-9._@-]*)")


class Role(StrEnum):
    """What a certificate may be used as."""

    NODE = "node"
    COORDINATOR = "coordinator"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the holder of a certificate is."""

    cluster_id: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        return f"gestalt://{self.cluster_id}/{self.role}/{self.name}"


def identity_of(names: Iterable[str | bytes]) -> Identity:
    """Return the one identity among a certificate's alternative names.

    Raises:
        GestaltError: UNAUTHENTICATED, when there is none or more than one.
    """
    texts = (name.decode("ascii", "replace") if isinstance(name, bytes) else name for name in names)
    found = [match for match in map(_URI.fullmatch, texts) if match]
    if len(found) != 1:
        raise GestaltError(
            Kind.UNAUTHENTICATED,
            f"the certificate holds {len(found) or 'no'} Gestalt identities, one is needed",
            hint="use a certificate that this cluster issued: see etc/gestalt/client.yaml",
        )
    return Identity(found[0][1], Role(found[0][2]), found[0][3])
