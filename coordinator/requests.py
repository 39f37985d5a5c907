"""Idempotent requests: the answer to a request id is part of the commit that the request caused."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from gestalt import clock
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.proto.v1 import api_pb2

from .changes import Asked
from .ledger import Ledger
from .records import Answer, Task
from .state import Draft

Work = Callable[[Draft, Asked], Task | None]
"""Puts one change into the draft; returns its task, or None when there was nothing to change."""


@dataclass(frozen=True, slots=True)
class Call:
    """One mutating call: who makes it, which method, with which message."""

    actor: str
    method: str
    message: Message
    request: api_pb2.Request

    @property
    def content(self) -> str:
        """A digest of what was asked, apart from the request's id."""
        plain = type(self.message)()
        plain.CopyFrom(self.message)
        plain.ClearField("request")
        data = plain.SerializeToString(deterministic=True)
        return hashlib.sha256(f"{self.actor}\0{self.method}\0{self.request.expected_version}\0".encode() + data).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change left behind, for the reply."""

    tasks: tuple[Task, ...]
    unchanged: tuple[str, ...]


class Requests:
    """Carries out mutating calls, each at most once."""

    def __init__(self, ledger: Ledger, reply: Callable[[Outcome], api_pb2.ChangeReply]) -> None:
        self._ledger = ledger
        self._reply = reply

    async def change(self, call: Call, work: dict[str, Work]) -> api_pb2.ChangeReply:
        """Do all of `work` (by app path) in one commit, or answer as the first time.

        Raises:
            GestaltError: what the work raised; EXISTS when the id was used for another request. Nothing changed.
        """
        check_request(call.request)
        action = f"{call.method} {', '.join(work)}"[:500]
        async with self._ledger.draft(call.actor, action, call.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                return api_pb2.ChangeReply.FromString(data)
            outcome = _carry_out(draft, call, work)
            reply = self._reply(outcome)
            put_answer(draft, call, reply)
        return reply


def answered(draft: Draft, call: Call) -> bytes | None:
    """Return what a call was answered the first time, None if this is the first time.

    Raises:
        GestaltError: EXISTS, when its id was used for another request.
    """
    answer = draft.base.answers.get(call.request.id)
    if answer is None:
        return None
    if answer.content != call.content:
        raise GestaltError(Kind.EXISTS, f"request id {call.request.id} was used for another request", hint="use a new id for each request")
    return base64.b64decode(answer.reply)


def put_answer(draft: Draft, call: Call, reply: Message) -> None:
    """Have the answer kept with the change that the draft holds, if the call has an id."""
    if call.request.id:
        encoded = base64.b64encode(reply.SerializeToString()).decode()
        draft.put(Answer(call.request.id, call.content, encoded, clock.wall().isoformat()))


def _carry_out(draft: Draft, call: Call, work: dict[str, Work]) -> Outcome:
    at = clock.wall().isoformat()
    tasks, unchanged = [], []
    for path, change in work.items():
        random = uuid.uuid4().hex
        task = change(draft, Asked(call.actor, at, call.request.expected_version, random[:12], random[12:18]))
        if task is None:
            unchanged.append(path)
        else:
            tasks.append(task)
    return Outcome(tuple(tasks), tuple(unchanged))


def check_request(request: api_pb2.Request) -> None:
    """Refuse a malformed request.

    Raises:
        GestaltError: INVALID.
    """
    allowed = "at most 64 printable ASCII characters, such as a UUID"
    if len(request.id) > 64 or not request.id.isascii() or not (request.id.isprintable() or not request.id):
        raise GestaltError(
            Kind.INVALID, f"request.id is malformed; allowed: {allowed}", details=[Detail("request.id", "is malformed", allowed)]
        )
