"""Keeps a coordinator's own certificate fresh: it has the authority to sign it."""

from __future__ import annotations

import asyncio
import logging

from gestalt.cluster.issuing import load_authority, renew_own
from gestalt.config import CoordinatorSettings
from gestalt.errors import GestaltError

log = logging.getLogger(__name__)

PERIOD = 86_400.0
"""Seconds between two looks at the certificate. It is renewed when a third of its life is left: there is time for many."""


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
