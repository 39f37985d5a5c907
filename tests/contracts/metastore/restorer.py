"""A process that restores one state after the other until it is killed, telling of each after it was acknowledged.

    python -m tests.contracts.metastore.restorer BACKEND FOLDER FIRST

First it restores once and tells how long that took, in seconds: whoever kills it knows then where the middle of a restore is.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from gestalt.coordinator.store import Document, MetaStore

from .backends import BACKENDS, CLUSTER

ROUNDS = 50
_COUNT, _SIZE = 400, 5000


def program(backend: str, folder: Path, turn: int) -> tuple[str, ...]:
    """Return the command of turn number `turn`, whose states no other turn has."""
    return (sys.executable, "-m", "tests.contracts.metastore.restorer", backend, str(folder), str(turn * ROUNDS))


def documents_of(number: int) -> tuple[Document, ...]:
    """Return a state, recognisable by its number."""
    return tuple(Document("app", f"{key:05}", b"%d" % number * (_SIZE // 4), 1) for key in range(_COUNT - number % 7))


async def _restore(store: MetaStore, number: int) -> None:
    expected = await store.last_commit()
    await store.restore(documents_of(number), commit=1, epoch=1, expected=expected)


async def _main(backend: str, folder: Path, first: int) -> None:
    store = BACKENDS[backend](folder, CLUSTER)
    await store.open()
    begin = time.monotonic()
    await _restore(store, first)
    os.write(1, f"{time.monotonic() - begin}\n".encode())
    for number in range(first + 1, first + ROUNDS):
        await _restore(store, number)
        os.write(1, b"restored\n")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
