"""Commits per second of the SQLite store, durability on, beside what bare `sqlite3` reaches with the same documents.

    python bench/store.py [--runs N] [--folder DIR] [-o json]

A commit puts three documents of 500 bytes (a document, its audit record, the answer to its request), over 1,000 keys. The bare cases
write the same rows into the same table with the same pragmas, and nothing else: one transaction a commit is the limit of one commit in
flight; 32 commits a transaction that of 32 in flight, where the store lets waiting commits share an fsync.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.harness import machine_facts, options, ratio, report, run
from gestalt.coordinator.store import Put
from gestalt.coordinator.store.sqlite import SqliteStore

COMMITS = 4000
IN_FLIGHT = 32
KEYS = 1000
VALUE = bytes(range(250)) * 2
KINDS = ("app", "audit", "request")


def rows() -> Iterator[list[tuple[str, str, bytes]]]:
    """Return what each commit writes."""
    for number in range(COMMITS):
        yield [(kind, f"/org/workspace/environment/{number % KEYS}", VALUE) for kind in KINDS]


def bare(folder: Path, together: int) -> float:
    """Write everything with sqlite3 alone, `together` commits in one transaction."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 1000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(
        "CREATE TABLE document "
        "(kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, value BLOB NOT NULL, UNIQUE (kind, key)) STRICT"
    )
    put = (
        "INSERT INTO document (kind, key, revision, value) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (kind, key) DO UPDATE SET revision = excluded.revision, value = excluded.value"
    )
    commits = list(rows())
    started = time.perf_counter()
    for first in range(0, COMMITS, together):
        connection.execute("BEGIN IMMEDIATE")
        for number, commit in enumerate(commits[first : first + together], first + 1):
            for kind, key, value in commit:
                connection.execute(put, (kind, key, number, value))
        connection.execute("COMMIT")
    elapsed = time.perf_counter() - started
    connection.close()
    return COMMITS / elapsed


async def ours(folder: Path, in_flight: int) -> float:
    """Write everything through the store, with so many commits called at a time."""
    store = SqliteStore(folder / "state.db", "bench")
    await store.open()
    epoch = await store.take_office()
    commits = iter([[Put(*row) for row in commit] for commit in rows()])

    async def caller() -> None:
        for changes in commits:
            await store.commit(changes, epoch)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    elapsed = time.perf_counter() - started
    await store.close()
    return COMMITS / elapsed


async def load_time(folder: Path, documents: int = 10_000) -> float:
    """Return the milliseconds that a new leader needs to open the store and read everything."""
    store = SqliteStore(folder / "state.db", "bench")
    await store.open()
    epoch = await store.take_office()
    await store.commit([Put("instance", f"{number:05}", VALUE) for number in range(documents)], epoch)
    await store.close()
    started = time.perf_counter()
    await store.open()
    await store.load()
    elapsed = time.perf_counter() - started
    await store.close()
    return elapsed * 1000


def sync_time(folder: Path) -> float:
    """Return the microseconds of one 4 KiB append with fdatasync: what the disk alone costs."""
    descriptor = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT, 0o600)
    times = []
    for _ in range(500):
        started = time.perf_counter()
        os.write(descriptor, bytes(4096))
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - started)
    os.close(descriptor)
    return statistics.median(times) * 1e6


def main() -> None:
    """Measure and print."""
    parser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--folder", type=Path, help="where the files lie; the figures are those of its disk", default=Path(tempfile.gettempdir())
    )
    arguments = parser.parse_args()

    def fresh(measure: str, *parameters: int) -> float:
        with tempfile.TemporaryDirectory(prefix="gestalt-bench-", dir=arguments.folder) as name:
            folder = Path(name)
            match measure:
                case "bare":
                    return bare(folder, *parameters)
                case "ours":
                    return asyncio.run(ours(folder, *parameters))
                case "load":
                    return asyncio.run(load_time(folder))
                case _:
                    return sync_time(folder)

    names = {
        "bare, 1 commit a transaction": lambda: fresh("bare", 1),
        "store, 1 in flight": lambda: fresh("ours", 1),
        f"bare, {IN_FLIGHT} commits a transaction": lambda: fresh("bare", IN_FLIGHT),
        f"store, {IN_FLIGHT} in flight": lambda: fresh("ours", IN_FLIGHT),
    }
    commits = run(names, "commits/s", arguments.runs)
    disk = run({"disk, 4 KiB append + fdatasync": lambda: fresh("sync")}, "µs", arguments.runs)
    load = run({"store, open and load 10,000 documents": lambda: fresh("load")}, "ms", arguments.runs)
    bare_one, ours_one, bare_many, ours_many = commits.values()
    ratios = [
        ratio("store / bare, 1 in flight", ours_one, bare_one),
        ratio(f"store / bare, {IN_FLIGHT} in flight", ours_many, bare_many),
        ratio(f"store {IN_FLIGHT} in flight / bare one by one", ours_many, bare_one, "what sharing an fsync brings"),
    ]
    facts = machine_facts() | {"sqlite": sqlite3.sqlite_version, "folder": f"{arguments.folder} ({file_system(arguments.folder)})"}
    report(facts, [*commits.values(), *disk.values(), *load.values()], ratios, arguments.output)


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = [(len(point), kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(above)[1]


if __name__ == "__main__":
    main()
