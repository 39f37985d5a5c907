"""Lists of addresses that a daemon keeps on its disk, a JSON array of strings: newer than its settings, and not needed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def load_addresses(file: Path) -> tuple[str, ...]:
    """Return what was kept last; nothing when there is none, or when it cannot be understood: then the settings count."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        log.error("%s cannot be read, the settings count: %s", file, error)
        return ()
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        log.error("%s holds no addresses, the settings count", file)
        return ()
    return tuple(found)
