"""From a command to its conversation with the coordinator. gRPC is imported here, when a command needs it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import contexts
from .exits import Ended
from .options import invocation
from .report import notice

if TYPE_CHECKING:
    from gestalt.client import Client

T = TypeVar("T")


def converse(work: Callable[[Client], Awaitable[T]], *, patience: float = 10.0) -> T:
    """Run `work` with a client of the chosen context, to its end.

    Args:
        work: what to do; it starts without a connection, the first call makes one.
        patience: seconds for which a lost connection is looked for again.

    Raises:
        GestaltError: there is no usable context, or what `work` raises.
    """
    said = invocation(click.get_current_context())
    context = contexts.choose(said.config, said.context)
    from gestalt.client import Client, Target

    target = Target(context.coordinators, context.ca, context.certificate, context.key)

    async def session() -> T:
        async with Client(target, patience=patience, on_notice=notice) as client:
            return await work(client)

    return asyncio.run(endable(session()))


async def endable(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` so that SIGTERM and SIGHUP end it in order: the terminal gets its mode and its cursor back.

    Raises:
        Ended: a signal came.
    """
    loop, current, received = asyncio.get_running_loop(), asyncio.current_task(), list[int]()

    def end(number: int) -> None:
        received.append(number)
        if current is not None:
            current.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, end, number)
    try:
        return await work
    except asyncio.CancelledError:
        if received:
            raise Ended(received[0]) from None
        raise
