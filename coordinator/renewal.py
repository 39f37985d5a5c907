"""Keeps a coordinator's own certificate fresh: it has the authority to sign it. Tells callers when theirs ends."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509

from gestalt.cluster.issuing import load_authority, renew_own
from gestalt.config import CoordinatorSettings
from gestalt.errors import GestaltError

log = logging.getLogger(__name__)

PERIOD = 86_400.0
"""Seconds between two looks at the certificate. It is renewed when a third of its life is left: there is time for many."""


WARN_BEFORE = timedelta(days=30)


def ends_soon(certificate: bytes, now: datetime) -> str:
    """Return when a certificate, PEM, ends, RFC 3339, if that is within 30 days and the last third of its life; else nothing."""
    begin, end = _life(certificate)
    return end.isoformat() if end - now < min(WARN_BEFORE, (end - begin) / 3) else ""


@lru_cache(maxsize=1024)
def _life(certificate: bytes) -> tuple[datetime, datetime]:
    read = x509.load_pem_x509_certificate(certificate)
    return read.not_valid_before_utc, read.not_valid_after_utc


async def keep_certificate(settings: CoordinatorSettings) -> None:
    """Look at the certificate at once and then daily, for ever. What goes wrong is logged; a new connection uses a renewed one."""
    while True:
        try:
            await asyncio.to_thread(_look, settings)
        except (GestaltError, OSError, ValueError) as error:
            log.error("the certificate %s cannot be renewed: %s", settings.tls.certificate, error)
        await asyncio.sleep(PERIOD)


def _look(settings: CoordinatorSettings) -> None:
    authority = load_authority(settings)
    if authority is not None:
        renew_own(settings, authority)
