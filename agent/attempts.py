"""Small things done with one attempt of an instance: its last words, how it ended, commands inside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from gestalt.plugin.runtime import (
    AttemptKey,
    AttemptStatus,
    DriverUnavailable,
    ExecRequest,
    ExecRunner,
    LaunchRefused,
    LogOptions,
    RuntimeDriver,
)

from .plan import ISOLATED
from .records import LOG_TAIL, Ending

log = logging.getLogger(__name__)

TAIL_LIMIT = 2.0
LINE_MAX = 500
OUTPUT_MAX = 64 * 1024
_SIGNALLED = 128


def describe_ending(status: AttemptStatus | None, stopped_because: str, tail: tuple[str, ...], *, interrupted: bool = False) -> Ending:
    """Return how an attempt ended.

    `stopped_because`: why we stopped it, empty when we did not; that this node was cut off is no more its own fault than that the machine
    went down, `interrupted`.
    """
    if interrupted:
        code = status.exit_code if status else None
        return Ending("ended when the machine was restarted", True, exit_code=code, log_tail=tail, interrupted=True)
    if status is None:
        return Ending(stopped_because or "it vanished: someone else removed it", failed=True, log_tail=tail)
    code, killed = status.exit_code, status.oom_killed
    if stopped_because:
        is_cut_off = stopped_because == ISOLATED
        return Ending(f"was restarted: {stopped_because}", True, exit_code=code, oom_killed=killed, log_tail=tail, interrupted=is_cut_off)
    if killed:
        reason = "was killed because it used more memory than it may"
    elif status.error:
        reason = status.error
    elif code is None:
        reason = "ended, nobody knows how"
    elif code > _SIGNALLED:
        reason = f"was ended by signal {code - _SIGNALLED}"
    else:
        reason = f"exited with code {code}"
    return Ending(reason, code != 0 or killed, exit_code=code, oom_killed=killed, log_tail=tail)


async def read_tail(driver: RuntimeDriver, key: AttemptKey) -> tuple[str, ...]:
    """Return the last lines that it wrote; fewer or none when they cannot be had quickly."""
    lines: list[str] = []
    try:
        async with asyncio.timeout(TAIL_LIMIT):
            async for line in driver.logs(key, LogOptions(tail=LOG_TAIL)):
                lines.append(line.data.decode(errors="replace").rstrip("\r\n")[:LINE_MAX])  # noqa: PERF401 (what came before the limit counts)
    except (TimeoutError, DriverUnavailable, LaunchRefused) as error:
        log.warning("the last lines of %s-%d cannot be read: %s", key.instance, key.attempt, error or "it takes too long")
    return tuple(lines[-LOG_TAIL:])


def exec_runner(driver: RuntimeDriver, key: AttemptKey) -> ExecRunner:
    """Return what runs a command inside the attempt for a check."""

    async def run(argv: Sequence[str], limit: float) -> tuple[int, bytes]:
        async with asyncio.timeout(limit):
            session = await driver.exec(key, ExecRequest(tuple(argv)))
            try:
                output = bytearray()
                async for _, data in session.output():
                    output += data[: OUTPUT_MAX - len(output)]
                return await session.wait(), bytes(output)
            finally:
                await session.close()

    return run
