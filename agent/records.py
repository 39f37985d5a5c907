"""What the agent must not forget of an instance: which attempt it is at and how the last ones ended.

A record is on disk before the attempt that it names is launched, so that a launch whose outcome nobody saw is found again
by its name. Times are seconds since boot and hold for one boot only: a crash loop of the agent, or a clock that jumps,
arms no counter again.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gestalt.model import CheckStatus, Health
from gestalt.spec.schema import Restart

from .disk import Disk

log = logging.getLogger(__name__)

MAX_EXPONENT = 30
LOG_TAIL = 20
NOTE_DELAY = 0.2


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `refused`: it never ran. `failed`: its end was no success. `port_taken`: a host port that it could not have.

    `interrupted`: the machine went down.
    """

    reason: str
    failed: bool
    refused: bool = False
    exit_code: int | None = None
    oom_killed: bool = False
    log_tail: tuple[str, ...] = ()
    port_taken: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """Attempt `attempt` is the last that was decided; `started`: it is known to have run; `ended`: the last whose end was counted.

    `streak` counts the ends in a row since it last ran well, `exits` holds the times of those within the window. `interrupted`:
    it ran when the machine went down, so its end says nothing about it. `host`: where the ports of the attempt are published, if known.
    """

    instance: str
    runtime: str
    attempt: int = 0
    started: bool = False
    started_at: float = 0.0
    ended: int = 0
    ended_at: float = 0.0
    ending: Ending | None = None
    streak: int = 0
    exits: tuple[float, ...] = ()
    crash_loop: bool = False
    restarts: int = 0
    checks: tuple[CheckStatus, ...] = ()
    interrupted: bool = False
    host: str = ""


def launching(record: InstanceRecord, attempt: int) -> InstanceRecord:
    """The next attempt is decided."""
    if attempt == record.attempt:
        return record
    ran_before = record.ended > 0 and record.ending is not None and not record.ending.refused
    return replace(record, attempt=attempt, started=False, restarts=record.restarts + ran_before, checks=(), interrupted=False, host="")


def running(record: InstanceRecord, attempt: int, now: float) -> InstanceRecord:
    """The attempt was seen to run: our launch of it, or one that was found and is adopted."""
    started_at = record.started_at if record.started and record.attempt == attempt else now
    return replace(record, attempt=max(attempt, record.attempt), started=True, started_at=started_at, interrupted=False)


def ended(record: InstanceRecord, attempt: int, ending: Ending, restart: Restart, now: float) -> InstanceRecord:
    """Count the end of an attempt, once: a second call for the same one changes nothing."""
    if attempt <= record.ended:
        return record
    kept = max(restart.crash_loop, 1)
    exits = record.exits if ending.refused else tuple(time for time in (*record.exits, now) if now - time < restart.window)[-kept:]
    loops = restart.crash_loop > 0 and len(exits) >= restart.crash_loop
    return replace(
        record,
        attempt=max(attempt, record.attempt),
        ended=attempt,
        ended_at=now,
        ending=ending,
        streak=record.streak + 1,
        exits=exits,
        crash_loop=record.crash_loop or loops,
        checks=(),
    )


def settled(record: InstanceRecord) -> InstanceRecord:
    """It ran well for long enough: the past is forgiven."""
    return replace(record, streak=0, exits=(), crash_loop=False)


def delay(record: InstanceRecord, restart: Restart) -> float:
    """Return how many seconds after its last end an instance waits for the next attempt.

    The first restart comes at once, the second after `backoff`, then doubling. A refused launch waits from the first time on.
    """
    if record.ending is None:
        return 0.0
    if record.crash_loop:
        return restart.backoff_max
    doublings = record.streak - (1 if record.ending.refused else 2)
    if doublings < 0:
        return 0.0
    return float(min(restart.backoff * 2 ** min(doublings, MAX_EXPONENT), restart.backoff_max))


class RecordStore:
    """One small file an instance, in a folder of their own."""

    def __init__(self, folder: Path, disk: Disk, boot_id: str) -> None:
        self._folder = folder
        self._disk = disk
        self._boot_id = boot_id
        self._noted: dict[str, InstanceRecord] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: set[asyncio.Task[None]] = set()

    def load(self) -> dict[str, InstanceRecord]:
        """Return all records by instance; one that cannot be read is reported and left out.

        Those of another boot lose their times and counters: nothing of that boot runs any more, and its clock is gone.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        records = {}
        for file in sorted(self._folder.glob("*.json")):
            try:
                document = json.loads(file.read_text(encoding="utf-8"))
                record = _from_document(document)
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.error("%s cannot be read and is ignored: %s", file, error)
                continue
            same_boot = document.get("boot_id") == self._boot_id
            records[record.instance] = record if same_boot else _of_another_boot(record)
        return records

    async def save(self, record: InstanceRecord) -> None:
        """Make the record durable.

        Raises:
            OSError: the one before is still there.
        """
        self._noted.pop(record.instance, None)
        await self._write(record)

    async def _write(self, record: InstanceRecord) -> None:
        document = asdict(record) | {"boot_id": self._boot_id}
        await self._disk.write(self._file(record.instance), json.dumps(document, separators=(",", ":")).encode())

    def note(self, record: InstanceRecord) -> None:
        """Make the record durable in a moment: for what a new life of the agent would find out by itself."""
        self._noted[record.instance] = record
        if self._timer is None:
            nobodys = contextvars.Context()  # what is written then is of many instances
            self._timer = asyncio.get_running_loop().call_later(NOTE_DELAY, self._flush_soon, context=nobodys)

    async def flush(self) -> None:
        """Make everything durable that was noted."""
        while self._noted:
            _, record = self._noted.popitem()
            try:
                await self._write(record)
            except OSError as error:
                log.error("the record of %s cannot be written: %s", record.instance, error, extra={"instance": record.instance})

    def _flush_soon(self) -> None:
        self._timer = None
        task = asyncio.create_task(self.flush(), name="flush records")
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def forget(self, instance: str) -> None:
        """Nothing of the instance is left."""
        self._noted.pop(instance, None)
        await self._disk.remove(self._file(instance))

    def _file(self, instance: str) -> Path:
        return self._folder / f"{instance}.json"


def _of_another_boot(record: InstanceRecord) -> InstanceRecord:
    interrupted = record.interrupted or (record.started and record.ended < record.attempt)
    return replace(settled(record), ended_at=0.0, started_at=0.0, checks=(), interrupted=interrupted)


def _from_document(document: Mapping[str, Any]) -> InstanceRecord:
    content = {key: value for key, value in document.items() if key != "boot_id"}
    ending = content.get("ending")
    if ending is not None:
        content["ending"] = Ending(**ending | {"log_tail": tuple(ending["log_tail"])})
    content["exits"] = tuple(content["exits"])
    content["checks"] = tuple(CheckStatus(item["name"], Health(item["health"]), item["output"]) for item in content["checks"])
    return InstanceRecord(**content)
