"""Completion of app paths and instance ids, asked of the coordinator: at most one second, silent when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gestalt.errors import GestaltError

from .options import invocation

if TYPE_CHECKING:
    from gestalt.proto.v1 import api_pb2

F = TypeVar("F", bound=Callable[..., Any])

_LIMIT = 1.0


def complete_apps(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the paths and short names that fit."""
    return _fitting(_apps(_known(ctx)), incomplete)


def complete_subjects(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the apps and instances that fit."""
    known = _known(ctx)
    return _fitting(_apps(known) + [item.id for item in known.instances] if known else [], incomplete)


app_argument = click.argument("app", shell_complete=complete_apps)
subject_argument = click.argument("subject", metavar="APP|INSTANCE", shell_complete=complete_subjects)


def _known(ctx: click.Context) -> api_pb2.ListReply | None:
    from . import contexts

    said = invocation(ctx)
    try:
        context = contexts.choose(said.config, said.context)
        from gestalt.client import Client, Target

        from .resolve import everything

        target = Target(context.coordinators, context.ca, context.certificate, context.key)

        async def ask() -> api_pb2.ListReply:
            async with asyncio.timeout(_LIMIT), Client(target) as client:
                return await everything(client)

        return asyncio.run(ask())
    except (GestaltError, TimeoutError):
        return None


def _apps(known: api_pb2.ListReply | None) -> list[str]:
    return [app.path for app in known.apps] + [app.path.rpartition("/")[2] for app in known.apps] if known else []


def _fitting(names: list[str], incomplete: str) -> list[str]:
    fitting = [name for name in names if name.startswith(incomplete)]
    return fitting if incomplete else [name for name in fitting if names.count(name) == 1]
