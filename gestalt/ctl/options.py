"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "wide", "json", "yaml", "name")


@dataclass(slots=True)
class Invocation:
    """What the command line said about the connection, before or after the command's name."""

    config: str | None = None
    context: str | None = None


class Duration(click.ParamType[float]):
    """Seconds, written as people do: 30s, 5m, 1h30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from gestalt.units import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


def invocation(ctx: click.Context) -> Invocation:
    """Return what was said about the connection; taken from the parameters while a shell completes, when nothing has run."""
    root = ctx.find_root()
    if root.obj is None:
        root.obj = Invocation(config=root.params.get("config"), context=root.params.get("context_name"))
    assert isinstance(root.obj, Invocation)
    return root.obj


def _set(attribute: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(invocation(ctx), attribute, value)

    return callback


def connected(command: F) -> F:
    """Let `--context` and `--config` stand after the command's name too."""
    context = click.option("--context", metavar="NAME", expose_value=False, callback=_set("context"), help="Cluster to talk to.")
    config = click.option("--config", metavar="FILE", expose_value=False, callback=_set("config"), help="File of contexts.")
    return context(config(command))


def output_option(command: F) -> F:
    """-o: how the answer is printed."""
    return click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print the answer.")(
        command
    )


@dataclass(frozen=True, slots=True)
class Following:
    """How a change is asked for and followed to its end."""

    output: str
    detach: bool
    timeout: float | None
    request_id: str
    expected_version: int = 0


def change_options(command: F) -> F:
    """Options of every command that changes an app: those of `task_options`, and `expected_version`."""
    expected = click.option(
        "--expected-version", default=0, type=click.IntRange(min=0), metavar="N", help="Refuse unless the app's revision is N."
    )
    return task_options(expected(command))


def task_options(command: F) -> F:
    """Options of every command that begins a task; they arrive as `output`, `detach`, `timeout`, `request_id`."""
    for option in reversed(
        (
            click.option("--detach", is_flag=True, help="Return at once with the task's id, do not follow it."),
            click.option("--timeout", type=Duration(), metavar="TIME", help="Follow for at most this long; the task goes on."),
            click.option("--request-id", default="", metavar="UUID", help="Make a repeated call harmless: the same id acts once."),
        )
    ):
        command = option(command)
    return connected(output_option(command))


def examples(*lines: str) -> str:
    """Return an epilog of examples, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
