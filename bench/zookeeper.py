"""The store in ZooKeeper: fenced commits beside bare transactions, and what a new leader reads before it begins.

    python -m bench.zookeeper [--runs N] [--servers N]

A commit puts three documents of 500 bytes (a document, its audit record, the answer to its request), over 1,000 keys. The bare case is
kazoo alone: transactions of the same operations (a check, a set of a few bytes, a create) with as many bytes, and as many in flight; it
knows no documents, numbers no commits, cleans nothing up. Both in turn, so that each run has a ratio of its own. A single set of 2 KB
is shown beside them. Then 10,000 apps, each with its version, are read by a leader that is new: connected, but with an empty memory.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from kazoo.client import KazooClient

from bench.harness import machine_facts, options
from bench.sheet import Sheet
from gestalt.coordinator.records import App, Version
from gestalt.coordinator.state import State, encode, version_key
from gestalt.coordinator.store.base import Change, Put
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.coordinator.store.zookeeper_format import Entry, encode_entry, record_of
from gestalt.spec.load import validate_spec
from gestalt.spec.template import template_hash
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.zookeeper_lab import Ensemble, new_root, running

COMMITS = {1: 100, 32: 500}
"""How many a slice has, by how many are in flight."""

SLICES = 6
"""How many slices of each case a run has, in turn, so that a change of the machine's mood hits all alike."""

KEYS = 1000
VALUE = bytes(range(250)) * 2
KINDS = ("app", "audit", "request")
APPS = 10_000
_BATCH = 200
_SESSION = 10.0
_CLUSTER = "bench"


def changes(number: int) -> list[Change]:
    """Return what a commit writes."""
    return [Put(kind, f"/org/workspace/environment/{number % KEYS}", VALUE) for kind in KINDS]


def entry_value() -> bytes:
    """Return what a commit of these changes writes into ZooKeeper, as far as bytes go."""
    return encode_entry(Entry(1, records=b"".join(record_of(change, 1) for change in changes(KEYS - 1))))


class Bare:
    """kazoo alone, on one connection."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._client = KazooClient(",".join(ensemble.hosts), timeout=_SESSION)
        self._client.start(timeout=30)
        self._root = new_root()
        for name in ("epoch", "head", "log", "set"):
            self._client.create(f"{self._root}/{name}", b"0", makepath=True)
        self._numbers = iter(range(1_000_000_000))
        self._value = entry_value()

    def transactions(self, count: int, in_flight: int) -> float:
        """Return how many transactions a second are answered."""
        return self._timed(self._transaction, count, in_flight)

    def sets(self, count: int, in_flight: int) -> float:
        """Return how many sets of 2 KB a second are answered."""
        return self._timed(lambda: self._client.set_async(f"{self._root}/set", bytes(2048)), count, in_flight)

    def _transaction(self) -> Any:
        number = next(self._numbers)
        request = self._client.transaction()
        request.check(f"{self._root}/epoch", 0)
        request.set_data(f"{self._root}/head", str(number).encode())
        request.create(f"{self._root}/log/{number:012}", self._value)
        return request.commit_async()

    @staticmethod
    def _timed(send: Callable[[], Any], count: int, in_flight: int) -> float:
        slots, failures = threading.Semaphore(in_flight), list[object]()

        def answered(result: Any) -> None:
            if not result.successful() or any(
                isinstance(item, Exception) for item in (result.value if isinstance(result.value, list) else ())
            ):
                failures.append(result.exception)
            slots.release()

        begun = time.perf_counter()
        for _ in range(count):
            slots.acquire()
            send().rawlink(answered)
        for _ in range(in_flight):
            slots.acquire()
        elapsed = time.perf_counter() - begun
        assert not failures, failures[:3]
        return count / elapsed

    def close(self) -> None:
        self._client.delete(self._root, recursive=True)
        self._client.stop()
        self._client.close()


class Ours:
    """The store, with an office."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._settings = ensemble.settings()
        self._numbers = iter(range(1_000_000_000))

    async def open(self) -> None:
        """Have an empty store and lead."""
        self._zk = await Zk.connect(self._settings, session=_SESSION, name="bench")
        self.store = ZookeeperStore(self._zk, Paths(self._settings.root), _CLUSTER)
        await self.store.open()
        self.epoch = await self.store.take_office()

    async def commits(self, count: int, in_flight: int) -> float:
        """Return how many commits a second are answered."""
        left = iter(range(count))

        async def caller() -> None:
            for _ in left:
                await self.store.commit(changes(next(self._numbers)), self.epoch)

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return count / (time.perf_counter() - begun)

    async def start_of_a_leader(self) -> tuple[float, float]:
        """Return the seconds in which a new leader has read everything, and those until it has understood it."""
        zk = await Zk.connect(self._settings, session=_SESSION, name="new leader")
        store = ZookeeperStore(zk, Paths(self._settings.root), _CLUSTER)
        begun = time.perf_counter()
        await store.open()
        await store.take_office()
        snapshot = await store.load()
        read = time.perf_counter() - begun
        state = State()
        state.load(snapshot.documents)
        understood = time.perf_counter() - begun
        assert len(state.apps) == APPS
        await store.close()
        await zk.close()
        return read, understood

    async def close(self) -> None:
        await self.store.close()
        await self._zk.close()


def apps() -> Iterator[list[Change]]:
    """Yield commits that make 10,000 apps."""
    batch: list[Change] = []
    for number in range(APPS):
        path = f"/org-{number // 1000}/workspace/environment/app-{number:05}"
        spec = validate_spec(
            {
                "path": path,
                "image": "registry.example.com/shop/web:1.4.2",
                "instances": 3,
                "resources": {"cpu": "500m", "memory": "256M"},
                "ports": [{"name": "http", "container_port": 8000, "http": {"hosts": [f"app-{number}.example.com"]}}],
                "checks": [{"kind": "http", "port": "http", "path": "/health"}],
                "env": {"LEVEL": "info", "DATABASE": f"postgres://db-{number}.example.com/shop"},
            }
        )
        at = "2026-01-01T00:00:00+00:00"
        app = App(path, f"{number:06x}", 1, 1, 1, 1, 3, at)
        batch.append(Put("app", path, encode(app)))
        batch.append(Put("version", version_key(path, 1), encode(Version(path, 1, template_hash(spec), spec, at, "bench", proven=True))))
        if len(batch) >= 2 * _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def measure_commits(sheet: Sheet, ensemble: Ensemble, runs: int) -> None:
    """Measure commits and bare transactions in turn."""
    ours, bare = Ours(ensemble), Bare(ensemble)
    await ours.open()
    await ours.commits(200, 32)  # caches, and what Java compiles when it is used
    await asyncio.to_thread(bare.transactions, 200, 32)
    for _ in range(runs):
        for in_flight, count in COMMITS.items():
            alone, fenced, single = await in_turn(ours, bare, count, in_flight)
            sheet.add(f"bare transactions, {in_flight} in flight", alone, "/s", rate=True)
            sheet.add(f"fenced commits, {in_flight} in flight", fenced, "/s", rate=True)
            sheet.add(f"bare sets of 2 KB, {in_flight} in flight", single, "/s", rate=True)
            sheet.add(f"commits to bare transactions, {in_flight} in flight", 100 * fenced / alone, "%", rate=True, aim="at least 70 %")
    await ours.close()
    await asyncio.to_thread(bare.close)


async def in_turn(ours: Ours, bare: Bare, count: int, in_flight: int) -> tuple[float, ...]:
    """Return the rates of bare transactions, commits and sets, measured slice by slice."""
    seconds = [0.0, 0.0, 0.0]
    for _ in range(SLICES):
        seconds[0] += count / await asyncio.to_thread(bare.transactions, count, in_flight)
        seconds[1] += count / await ours.commits(count, in_flight)
        seconds[2] += count / await asyncio.to_thread(bare.sets, count, in_flight)
    return tuple(SLICES * count / passed for passed in seconds)


async def measure_start(sheet: Sheet, ensemble: Ensemble, runs: int) -> None:
    """Measure what a new leader reads."""
    ours = Ours(ensemble)
    await ours.open()
    for batch in apps():
        await ours.store.commit(batch, ours.epoch)
    await ours.close()
    for _ in range(runs):
        read, understood = await ours.start_of_a_leader()
        sheet.add(f"a new leader reads {APPS:,} apps with a version each", read)
        sheet.add("the same, and has them in memory", understood, aim="at most 2 s")


def main() -> None:
    """Measure everything and print it."""
    chosen = options(__doc__.splitlines()[0] if __doc__ else "")
    chosen.set_defaults(runs=20)
    chosen.add_argument("--servers", type=int, default=3)
    arguments = chosen.parse_args()
    facts = machine_facts() | {"ZooKeeper servers": str(arguments.servers), "bytes of a commit": str(len(entry_value()))}
    with running(arguments.servers) as ensemble, Sheet("the store in ZooKeeper", facts) as sheet:
        asyncio.run(measure_commits(sheet, ensemble, arguments.runs))
        asyncio.run(measure_start(sheet, ensemble, arguments.runs))


if __name__ == "__main__":
    main()
