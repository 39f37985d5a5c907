"""exec: a command inside an instance."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from gestalt.ctl import terminal
from gestalt.ctl.completing import subject_argument
from gestalt.ctl.options import connected, examples
from gestalt.ctl.report import notice
from gestalt.ctl.resolve import Subject, find
from gestalt.ctl.session import converse
from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2

    Inputs = asyncio.Queue[api_pb2.ExecInput]


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples(
        "gestaltctl exec -it web sh",
        "gestaltctl exec web-3fa9c1-7 -- ps aux",
        "echo 'select 1' | gestaltctl exec -i db -- psql",
        "gestaltctl exec -u root -e DEBUG=1 web -- env",
    ),
)
@click.option("-i", "--interactive", is_flag=True, help="Hand standard input to the command.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-e", "--env", "environment", multiple=True, metavar="NAME=VALUE", help="A variable for the command. Several are possible.")
@click.option("-u", "--user", default="", metavar="USER", help="Run as this user of the instance.")
@connected
@subject_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def execute(subject: str, command: tuple[str, ...], *, interactive: bool, tty: bool, environment: tuple[str, ...], user: str) -> int:
    """Run a command inside an instance.

    Of an app, a healthy instance is taken, and told. The exit code is that of the command.
    """
    if tty and not (interactive and sys.stdin and sys.stdin.isatty()):
        raise click.UsageError("-t needs -i and a terminal as standard input")
    variables = _variables(environment)
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("after -- comes the command")

    async def work(client: Client) -> int:
        from gestalt.proto.v1 import api_pb2

        instance = await _choose(client, await find(client, subject))
        opening = api_pb2.ExecInput.Open(instance=instance, command=words, tty=tty, env=variables, user=user)
        with terminal.raw_mode(sys.stdin.fileno()) if tty else nullcontext():
            return await _run(client, opening, interactive=interactive)

    return converse(work)


def _variables(environment: tuple[str, ...]) -> dict[str, str]:
    for item in environment:
        if "=" not in item.lstrip("="):
            raise click.UsageError(f"{item!r} is not NAME=VALUE")
    return dict(item.split("=", 1) for item in environment)


async def _choose(client: Client, subject: Subject) -> str:
    """Return the instance to run in.

    Raises:
        GestaltError: REFUSED, when no instance of the app runs.
    """
    from gestalt.proto.v1 import api_pb2

    if subject.instance:
        return subject.instance
    reply = await client.call(lambda api: api.apps.Get, api_pb2.GetRequest(app=subject.app))
    candidates = sorted(filter(_runs, reply.instances), key=_preference)
    if not candidates:
        raise GestaltError(Kind.REFUSED, f"no instance of {subject.app} runs", hint=f"gestaltctl inspect {subject.app}")
    if len(reply.instances) > 1:
        notice(f"in {candidates[0].id}")
    return candidates[0].id


def _runs(instance: model_pb2.Instance) -> bool:
    from gestalt.ctl import words

    return words.phase(instance) == "running"


def _preference(instance: model_pb2.Instance) -> tuple[bool, bool, int]:
    from gestalt.ctl import words

    return instance.stopping, words.health(instance) != "healthy", instance.serial


async def _run(client: Client, opening: api_pb2.ExecInput.Open, *, interactive: bool) -> int:
    """Run the command to its end; return its exit code."""
    from gestalt.proto.v1 import api_pb2

    inputs: Inputs = asyncio.Queue(maxsize=4)
    descriptor = sys.stdin.fileno() if interactive else -1
    handlers: dict[signal.Signals, Callable[[], object]] = {}
    if opening.tty:
        opening.rows, opening.columns = terminal.size(descriptor)
        opening.env["TERM"] = opening.env["TERM"] or os.environ.get("TERM", "xterm")
        handlers = _terminal_signals(inputs, descriptor)
    inputs.put_nowait(api_pb2.ExecInput(open=opening))
    feeder = asyncio.create_task(_feed(inputs, descriptor))
    try:
        with terminal.on_signals(handlers):
            return await _print_outputs(client.exec(_sent(inputs)))
    finally:
        feeder.cancel()


def _terminal_signals(inputs: Inputs, descriptor: int) -> dict[signal.Signals, Callable[[], object]]:
    """Tell a new size."""
    from gestalt.proto.v1 import api_pb2

    pending: set[asyncio.Task[None]] = set()

    def resized() -> None:
        rows, columns = terminal.size(descriptor)
        sending = asyncio.create_task(inputs.put(api_pb2.ExecInput(resize=api_pb2.ExecInput.Resize(rows=rows, columns=columns))))
        pending.add(sending)
        sending.add_done_callback(pending.discard)

    return {signal.SIGWINCH: resized}


async def _feed(inputs: Inputs, descriptor: int) -> None:
    """Send standard input and then its end; without one, its end at once."""
    from gestalt.proto.v1 import api_pb2

    if descriptor >= 0:
        async for data in terminal.read_chunks(descriptor):
            await inputs.put(api_pb2.ExecInput(stdin=data))
    await inputs.put(api_pb2.ExecInput(stdin_closed=True))


async def _sent(inputs: Inputs) -> AsyncIterator[api_pb2.ExecInput]:
    while True:
        yield await inputs.get()


async def _print_outputs(outputs: AsyncIterator[api_pb2.ExecOutput]) -> int:
    """Print what the command writes; return its exit code.

    Raises:
        GestaltError: FAILED, when the stream ended without one.
    """
    async for output in outputs:
        if output.HasField("exit_code"):
            return output.exit_code
        stream = sys.stderr if output.HasField("stderr") else sys.stdout
        stream.buffer.write(output.stderr or output.stdout)
        stream.flush()
    raise GestaltError(
        Kind.FAILED, "the connection to the command ended before the command", hint="see whether the instance still runs: gestaltctl ps"
    )
