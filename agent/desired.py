"""What this node is to run: on disk first, acted upon then.

The highest epoch that was ever seen is durable before anything of that epoch is done, and whatever comes with a lower one
is refused: a deposed leader cannot make us act, not even after a restart of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gestalt.errors import GestaltError, Kind
from gestalt.model import NodeState
from gestalt.proto.v1 import agent_pb2

from .disk import Disk
from .intake import Intake, take_in

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

_EMPTY = NodeState(epoch=0, revision=0)


class SessionDoubt(Exception):
    """What the coordinator said cannot be right for us. The session is to end, and everything to be told again."""


@dataclass(frozen=True, slots=True)
class Desired:
    """`complete`: a full state of the current epoch came in this life of the agent, so what is not listed is not wanted."""

    state: NodeState = _EMPTY
    refused: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    complete: bool = False


class DesiredStore:
    """Holds the desired state, in memory and on disk. One caller at a time (the session)."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._state_file = folder / "desired.pb"
        self._kept_file = folder / "kept.pb"
        self._epoch_file = folder / "epoch"
        self._disk = disk
        self._message = agent_pb2.NodeState()
        self._kept = agent_pb2.NodeState()
        self.epoch = 0
        self.current = Desired()

    def load(self) -> Desired:
        """Return what the last life of the agent was told. A file that cannot be read is reported; the next full state replaces it."""
        self.epoch = _read_epoch(self._epoch_file)
        self._message, self._kept = _read_state(self._state_file), _read_state(self._kept_file)
        self.current = self._understand(complete=False)
        return self.current

    async def welcome(self, epoch: int) -> Desired:
        """Take note of a leader's epoch, durably. Nothing that a new epoch does not list may be removed before its first full state.

        Raises:
            SessionDoubt: the leader was deposed.
            OSError: the epoch cannot be made durable; nothing of it may be acted upon.
        """
        if epoch < self.epoch:
            raise SessionDoubt(f"the leader of epoch {epoch} was deposed, we have heard of epoch {self.epoch}")
        if epoch > self.epoch:
            await self._disk.write(self._epoch_file, f"{epoch}\n".encode())
            self.epoch = epoch
            self.current = Desired(self.current.state, self.current.refused, self.current.problems, complete=False)
        return self.current

    async def full(self, message: agent_pb2.NodeState) -> Desired:
        """Take over a whole state.

        Raises:
            SessionDoubt: it comes from a deposed leader, or from one that did not introduce itself.
            OSError: it cannot be made durable; the state before holds.
        """
        self._same_epoch(message.epoch)
        await self._keep(message)
        return await self._take(message)

    async def _keep(self, message: agent_pb2.NodeState) -> None:
        """Remember the routes that a recovering leader does not know: what it does not know may run, and is to be reached."""
        if not message.recovering:
            return
        before = dict(self._message.routes) | (dict(self._kept.routes) if self._message.recovering else {})
        kept = agent_pb2.NodeState(routes={key: route for key, route in before.items() if key not in message.routes})
        if kept != self._kept:
            await self._disk.write(self._kept_file, kept.SerializeToString())
            self._kept = kept

    async def delta(self, message: agent_pb2.NodeDelta) -> Desired:
        """Take over a change.

        Raises:
            SessionDoubt: it does not continue what we have.
            OSError: it cannot be made durable; the state before holds.
        """
        self._same_epoch(message.epoch)
        if not self.current.complete:
            raise SessionDoubt("a change came before the first full state")
        if message.base != self._message.revision or message.revision <= message.base:
            raise SessionDoubt(f"a change leads from revision {message.base} to {message.revision}, we are at {self._message.revision}")
        return await self._take(apply_delta(self._message, message))

    def _same_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise SessionDoubt(f"a message of epoch {epoch} came in a session of epoch {self.epoch}")

    async def _take(self, message: agent_pb2.NodeState) -> Desired:
        await self._disk.write(self._state_file, message.SerializeToString())
        self._message = message
        self.current = self._understand(complete=True)
        return self.current

    def _understand(self, *, complete: bool) -> Desired:
        message = _with_kept(self._message, self._kept) if self._message.recovering else self._message
        intake: Intake = take_in(message, self.current.state.templates)
        for problem in set(intake.problems) - set(self.current.problems):
            log.error("%s", problem)
        return Desired(intake.state, intake.refused, intake.problems, complete)


def apply_delta(state: agent_pb2.NodeState, delta: agent_pb2.NodeDelta) -> agent_pb2.NodeState:
    """Return the state after the change; the one before is left as it is."""
    after = agent_pb2.NodeState()
    after.CopyFrom(state)
    after.epoch, after.revision = delta.epoch, delta.revision
    _change(after.templates, delta.put.templates, delta.drop_templates)
    _change(after.instances, delta.put.instances, delta.drop_instances)
    _change(after.routes, delta.put.routes, delta.drop_routes)
    _change(after.refused, delta.put.refused, delta.drop_refused)
    _change(after.peers, delta.put.peers, delta.drop_peers)
    after.recovering = delta.put.recovering
    after.prepare.clear()
    after.prepare.update(delta.put.prepare)
    return after


def _with_kept(state: agent_pb2.NodeState, kept: agent_pb2.NodeState) -> agent_pb2.NodeState:
    both = agent_pb2.NodeState()
    both.CopyFrom(state)
    _change(both.routes, {key: route for key, route in kept.routes.items() if key not in state.routes}, ())
    return both


def _read_state(file: Path) -> agent_pb2.NodeState:
    try:
        return agent_pb2.NodeState.FromString(file.read_bytes())
    except FileNotFoundError:
        log.info("there is no %s yet", file)
    except (OSError, DecodeError) as error:
        log.error("%s cannot be read, waiting for the coordinator: %s", file, error)
    return agent_pb2.NodeState()


def _change(ours: MutableMapping[str, M], put: Mapping[str, M], drop: Iterable[str]) -> None:
    for key in drop:
        ours.pop(key, None)
    for key, item in put.items():
        ours[key].CopyFrom(item)  # a map of messages makes the entry when it is asked for


def _read_epoch(file: Path) -> int:
    """Return the highest epoch of earlier lives. A damaged file must not let a deposed leader in: the agent does not start with it."""
    try:
        return int(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise GestaltError(
            Kind.FAILED,
            f"{file} cannot be read: {error}",
            hint="write the cluster's epoch (gestaltctl status) into it, then start the agent",
        ) from error
