"""The one way in which every command changes something: ask, tell the warnings, follow the tasks, tell the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gestalt.errors import GestaltError, Kind

from .options import Following
from .output import emit
from .progress import check_outcome, follow, tell_detached, view_for
from .report import warn

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc
    from google.protobuf.message import Message

    from gestalt.client import Api, Client
    from gestalt.proto.v1 import api_pb2, model_pb2

    Q = TypeVar("Q", bound=Message)


async def carry_out(
    client: Client, pick: Callable[[Api], grpc.aio.UnaryUnaryMultiCallable[Q, api_pb2.ChangeReply]], request: Q, how: Following
) -> None:
    """Make the change and follow it as `how` says.

    Raises:
        GestaltError: it was refused, a task failed or gave way, or did not end in time.
    """
    head = cast("api_pb2.Request", cast(Any, request).request)
    head.id, head.expected_version = how.request_id, how.expected_version
    reply = await client.call(pick, request)
    for text in dict.fromkeys([*reply.warnings, *(f"{task.app}: {text}" for task in reply.tasks for text in task.warnings)]):
        warn(text)
    if how.detach:
        _print(reply, reply.tasks, how.output, detached=True)
        return
    tasks = await _follow(client, reply, how)
    _print(reply, tasks, how.output, detached=False)
    check_outcome(tasks)


async def _follow(client: Client, reply: api_pb2.ChangeReply, how: Following) -> list[model_pb2.Task]:
    try:
        return await follow(client, reply.tasks, view_for(how.output, len(reply.tasks)), how.timeout)
    except GestaltError as error:
        if error.kind is Kind.UNAVAILABLE:
            tell_detached(reply.tasks)
        raise


def _print(reply: api_pb2.ChangeReply, tasks: Sequence[model_pb2.Task], output: str, *, detached: bool) -> None:
    def people(_: bool) -> None:
        for path in reply.unchanged:
            print(f"{path} is so already, nothing to do")
        for task in tasks if detached else ():
            print(task.id)

    emit(output, lambda: change_shape(reply, tasks), lambda: [task.id for task in tasks], people)


def change_shape(reply: api_pb2.ChangeReply, tasks: Sequence[model_pb2.Task]) -> dict[str, Any]:
    """Return the JSON shape of every change."""
    from .shapes import shape

    return {"tasks": [shape(task) for task in tasks], "unchanged": list(reply.unchanged), "warnings": list(reply.warnings)}
