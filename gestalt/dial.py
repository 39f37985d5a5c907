"""How a client reaches one of several coordinators: the first that answers, asked one after the other but not waited for in turn.

A machine that vanished or froze refuses nothing. So the next address is tried after a moment, while the last one still has time; and a
connection on which nothing comes back is given up soon, or after longer where it carries what cannot be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc

HEAD_START = 0.3
"""Seconds that an address has before the next one is tried as well."""

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a coordinator is never behind the proxy of a web browser
    ("grpc.use_local_subchannel_pool", 1),  # a new channel tries at once, whatever an older one met
    ("grpc.http2.max_pings_without_data", 0),  # who waits long for an answer goes on asking whether the other side lives
    ("grpc.max_receive_message_length", 64 * 1024**2),
    ("grpc.max_send_message_length", 64 * 1024**2),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
QUICK = (*_OPTIONS, ("grpc.keepalive_time_ms", 700), ("grpc.keepalive_timeout_ms", 1_000), ("grpc.http2.ping_timeout_ms", 15_000))
"""For calls that are repeated. A machine that vanished does not acknowledge what it is sent, which the kernel bears for the time-out only.

One whose process is frozen does; that is found out by `ping_timeout_ms`, or sooner by `gestalt.lookout`. It must be long: pings come back
behind what is being transferred.
"""

LASTING = (*_OPTIONS, ("grpc.keepalive_time_ms", 5_000), ("grpc.keepalive_timeout_ms", 5_000), ("grpc.http2.ping_timeout_ms", 15_000))
"""For streams that cannot be taken up again: they bear a network that stalls for 2 s.

The time-out is also the kernel's for what is not acknowledged, and the last time that it sends this again before the end is after 3 s.
"""


class Unreached(Exception):
    """No address answered. `problems`: why, one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


async def dial(
    addresses: Sequence[str], credentials: grpc.ChannelCredentials, limit: float, begun: Callable[[str], None]
) -> tuple[str, grpc.aio.Channel]:
    """Return the first address that answers and a QUICK channel to it.

    Args:
        limit: seconds for each address.
        begun: hears of each address that is tried.

    Raises:
        Unreached: none does.
    """
    attempts: dict[asyncio.Task[str], tuple[str, grpc.aio.Channel]] = {}
    winner = None
    try:
        for address in addresses:
            begun(address)
            channel = grpc.aio.secure_channel(address, credentials, options=QUICK)
            attempts[asyncio.create_task(_attempt(address, channel, limit))] = address, channel
            if (winner := await _first_ready(attempts, HEAD_START)) is not None:
                return attempts[winner]
        if (winner := await _first_ready(attempts, None)) is not None:
            return attempts[winner]
        raise Unreached([attempt.result() for attempt in attempts])
    finally:
        await _abandon({attempt: way for attempt, way in attempts.items() if attempt is not winner})


async def _first_ready(attempts: dict[asyncio.Task[str], tuple[str, grpc.aio.Channel]], limit: float | None) -> asyncio.Task[str] | None:
    """Return an attempt that succeeded, None when all have failed or the time is over. All attempts share the limit."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while True:
                if (ready := next((item for item in attempts if item.done() and not item.result()), None)) is not None:
                    return ready
                running = [item for item in attempts if not item.done()]
                if not running:
                    return None
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    return None


async def _abandon(attempts: dict[asyncio.Task[str], tuple[str, grpc.aio.Channel]]) -> None:
    for attempt in attempts:
        attempt.cancel()
    await asyncio.gather(*attempts, return_exceptions=True)
    for _, channel in attempts.values():
        await channel.close(None)


async def _attempt(address: str, channel: grpc.aio.Channel, limit: float) -> str:
    """Return why a channel does not connect, in a sentence; empty when it did."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while True:
                state = channel.get_state(try_to_connect=True)
                if state is grpc.ChannelConnectivity.READY:
                    return ""
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    break
                await channel.wait_for_state_change(state)
    return f"{address}: {await _reason(channel)}"


async def _reason(channel: grpc.aio.Channel) -> str:
    """Return why a channel does not connect, in gRPC's words without its wrapping."""
    try:
        await cast(Any, channel).unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=0.5)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "no answer"
        return (error.details() or error.code().name).rpartition("last error: ")[2]
    return "it answers only now"
