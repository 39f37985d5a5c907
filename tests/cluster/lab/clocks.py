"""Wall clocks of a node's own, that jump: libfaketime under the daemons.

The kernel has one wall clock for all nodes. So each daemon is told another one by a preloaded library. Boot-time and monotonic clocks
stay as they are, as they do when a real clock is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from .nodes import File, LabError, Node

_UNITS = ("gestalt-agent", "gestalt-coordinator", "gestalt-fence")
_OFFSET = "/run/lab-clock"
_DROP_IN = "/run/systemd/system/{unit}.service.d/lab-clock.conf"


@asynccontextmanager
async def own_clocks(nodes: Sequence[Node]) -> AsyncIterator[None]:
    """Run the daemons of these nodes, restarted, with wall clocks of their own while the block runs."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        raise LabError("wall clocks of a node's own need libfaketime: scripts/install-packages test")
    values = (f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={_OFFSET}", "FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1")
    drop_in = File(("[Service]\n" + "".join(f"Environment={value}\n" for value in values)).encode())
    files = {_DROP_IN.format(unit=unit): drop_in for unit in _UNITS} | {_OFFSET: File(b"+0\n")}
    try:
        await asyncio.gather(*(node.put(files) for node in nodes))
        await _restart(nodes)
        yield
    finally:
        await asyncio.gather(*(node.do("rm", "-f", *files) for node in nodes))
        await _restart(nodes)


async def set_clock(node: Node, offset: float) -> None:
    """Have the node's daemons believe, from a second on, that it is `offset` seconds later than it is."""
    await node.do("sh", "-c", f"echo {offset:+.0f} > {_OFFSET}.new && mv {_OFFSET}.new {_OFFSET}")


async def _restart(nodes: Sequence[Node]) -> None:
    """The fence first, alone and fast: a membership outlives its restart."""
    await asyncio.gather(*(node.do("systemctl", "daemon-reload") for node in nodes))
    for unit in ("gestalt-fence", "gestalt-coordinator", "gestalt-agent"):
        await asyncio.gather(*(node.do("systemctl", "try-restart", unit) for node in nodes))
