"""A process that commits without end until it is killed, telling of each commit only after it was acknowledged.

    python -m tests.contracts.metastore.writer BACKEND FOLDER SEED

Several lanes write at once, so that commits share an fsync. Commit n of a lane writes every part of the lane with the value n and
random padding, and a page of its diary; it tears out the page that is `DIARY` older. `verify` knows what must be found after a crash.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import defaultdict
from pathlib import Path

from gestalt.coordinator.store import Change, Delete, MetaStore, Put, Snapshot

from .backends import BACKENDS, CLUSTER, LIARS

LANES = 16
PARTS = 4
DIARY = 30

Counts = dict[int, int]
"""The last commit of each lane."""


def _value(count: int, seeded: random.Random) -> bytes:
    return b"%d " % count + b"." * seeded.choice([10, 10, 500, 5000, 40_000])


def _changes(lane: int, count: int, seeded: random.Random) -> list[Change]:
    parts = [Put(f"lane-{lane}", f"part-{part}", _value(count, seeded)) for part in range(PARTS)]
    page = Put(f"diary-{lane}", f"{count:08}", _value(count, seeded), expected=0)
    changes: list[Change] = [*parts, page, Delete(f"diary-{lane}", f"{count - DIARY:08}")]
    seeded.shuffle(changes)
    return changes


async def _run_lane(store: MetaStore, epoch: int, lane: int, count: int, seeded: random.Random) -> None:
    while True:
        count += 1
        committed = await store.commit(_changes(lane, count, seeded), epoch)
        os.write(1, f"{lane} {count} {committed.number}\n".encode())


async def _main(backend: str, folder: Path, seed: int) -> None:
    seeded = random.Random(seed)
    store = (BACKENDS | LIARS)[backend](folder, CLUSTER)
    await store.open()
    counts, complaints = verify(await store.load(), {}, 0)
    assert not complaints, complaints
    epoch = await store.take_office()
    await asyncio.gather(*(_run_lane(store, epoch, lane, counts[lane], random.Random(seeded.random())) for lane in range(LANES)))


def verify(snapshot: Snapshot, acknowledged: Counts, last_number: int) -> tuple[Counts, list[str]]:
    """Return the last commit found of each lane, and what is wrong: something acknowledged is lost, or something is half written."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for document in snapshot.documents:
        found[document.kind][document.key] = int(document.value.split(b" ")[0])
    counts: Counts = {}
    complaints = []
    if snapshot.commit < last_number:
        complaints.append(f"lost: commit {last_number} was acknowledged, {snapshot.commit} is the last one found")
    for lane in range(LANES):
        parts = found[f"lane-{lane}"]
        count = counts[lane] = max(parts.values(), default=0)
        if parts and parts != {f"part-{part}": count for part in range(PARTS)}:
            complaints.append(f"half written: lane {lane} has {parts}")
        pages = {f"{page:08}": page for page in range(max(1, count - DIARY + 1), count + 1)}
        if found[f"diary-{lane}"] != pages:
            complaints.append(f"half written: the diary of lane {lane} at {count} has {sorted(found[f'diary-{lane}'])}")
        if count < acknowledged.get(lane, 0):
            complaints.append(f"lost: commit {acknowledged[lane]} of lane {lane} was acknowledged, {count} is the last one found")
    return counts, complaints


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
