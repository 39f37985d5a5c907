"""Join tokens as people carry them: one line that says who may join, where, and by which certificate the cluster is known."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from gestalt.errors import GestaltError, Kind

Purpose = Literal["node", "coordinator"]
PURPOSES: tuple[str, ...] = get_args(Purpose)

_MARK = "gestalt1."


@dataclass(frozen=True, slots=True)
class JoinToken:
    """The right to join once. `addresses`: where to; `ca`: the cluster's certificate, DER. The whole text is a secret."""

    id: str
    secret: str
    purpose: str
    cluster_id: str
    addresses: tuple[str, ...]
    ca: bytes

    def encode(self) -> str:
        """Return the one line that people carry."""
        document = asdict(self) | {"ca": base64.b64encode(self.ca).decode()}
        data = json.dumps(document, separators=(",", ":")).encode()
        return _MARK + base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode_token(text: str) -> JoinToken:
    """Return the token that a line holds.

    Raises:
        GestaltError: INVALID, when it is none, or not whole. The text is not repeated.
    """
    line = text.strip()
    if not line.startswith(_MARK):
        raise _not_a_token(f"it does not begin with {_MARK}")
    body = line.removeprefix(_MARK)
    try:
        document = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
        token = JoinToken(**document | {"addresses": tuple(document["addresses"]), "ca": base64.b64decode(document["ca"], validate=True)})
    except (binascii.Error, ValueError, TypeError, KeyError) as error:
        raise _not_a_token("a part of it is missing or damaged") from error
    texts = (token.id, token.secret, token.cluster_id, *token.addresses)
    if not all(isinstance(item, str) and item for item in texts) or not token.addresses or token.purpose not in PURPOSES:
        raise _not_a_token("a part of it is missing or damaged")
    return token


def _not_a_token(why: str) -> GestaltError:
    return GestaltError(
        Kind.INVALID, f"this is not a join token: {why}", hint="copy the whole line that `gestaltctl node token` prints, or make a new one"
    )
