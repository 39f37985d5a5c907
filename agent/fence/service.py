"""The fence at work: asks `decide` for the next step, carries it out, and tells the agent and systemd how the node stands."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gestalt.clock import boot_id, boottime
from gestalt.daemon import Life, Service
from gestalt.errors import GestaltError, Kind
from gestalt.zk.ops import ZkRefused, ZkUnavailable, ZkUnknown
from gestalt.zk.paths import Paths

from . import membership
from .account import Account
from .asks import Asks
from .grants import Grants
from .keeper import LeaseKeeper, NotEnded
from .lease import Held, Membership
from .link import AgentLink
from .membership import Action, Decision, Facts, Link, Memory, Rest, Rules, Status, decide, reserved
from .saved import HeldFile, SavedFile
from .servers import Servers
from .settings import FenceSettings
from .watchdog import Guarded, Watchdog
from .watchdog_device import Marker

log = logging.getLogger(__name__)

REST_MAX = 2.0
BACK_OFF_FIRST = 0.05
BACK_OFF_MAX = 1.0
COMPLAINT_EVERY = 60.0
LET_GO = 2.0
"""Seconds; systemd ends a fence that takes ten to end."""


def life_id() -> str:
    """Return what changes when the machine starts anew: the kernel's id of the boot, and when process 1 started, for a container's sake."""
    stat = Path("/proc/1/stat").read_text(encoding="ascii", errors="replace")
    return f"{boot_id()}.{stat.rpartition(')')[2].split()[19]}"


async def start_fence(settings: FenceSettings, life: Life) -> Fence:
    """Start the fence; it answers at its socket when this returns, and becomes a member as soon as it can.

    Raises:
        GestaltError: its folders cannot be used, or another fence does.
    """
    file = SavedFile(settings.data_dir)
    file.lock()
    fence = Fence(settings, life, file)
    try:
        await fence.start()
    except OSError as error:
        file.unlock()
        raise GestaltError(Kind.FAILED, f"the socket {settings.socket} cannot be made: {error}") from error
    return fence


class Fence(Service[FenceSettings]):
    """One task takes one step after the other; everything else only wakes it."""

    def __init__(self, settings: FenceSettings, life: Life, file: SavedFile) -> None:
        self._settings = settings
        self._life = life
        self._file = file
        self._saved = file.load()
        self._voice = Voice(settings.node_id, life.say)
        self._woken = asyncio.Event()
        self._boot = life_id()
        self._servers = Servers(settings, self._woken.set)
        grants = Grants(self._servers, Paths(settings.zookeeper.root), settings.node_id, self._grant_changed)
        account = Account(HeldFile(settings.data_dir), self._boot, settings.timing.kill, self._publish)
        self._account = account
        self._lease = LeaseKeeper(settings, account, self._standing, grants)
        marker = Marker(settings.data_dir, self._boot)
        self._watchdog = Watchdog(settings.watchdog, settings.timing, marker, partial(_guarded, account, self._lease), self._publish)
        self._link = AgentLink(settings.socket, self._woken.set, Asks(settings, account, self._lease).ask)
        self._memory = Memory(boottime())
        self._task: asyncio.Task[None] | None = None

    @property
    def held(self) -> Held:
        """What is held in this life of the machine, whatever has become of the disk."""
        return self._account.present

    async def start(self) -> None:
        """Answer the agent, then begin.

        Raises:
            OSError: the socket cannot be made.
        """
        self._lease.start()
        self._watchdog.start()
        self._publish()
        await self._link.start()
        self._task = asyncio.create_task(self._run(), name="fence")

    async def reload(self, settings: FenceSettings) -> None:
        """Take over how long the agent may be away."""
        self._settings = settings
        self._woken.set()

    async def stop(self) -> None:
        """Go without ending the session: the next life takes it up again, or the servers end it."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait((self._task,))
            await self._link.close()
            await self._lease.close()
            await self._watchdog.close()
            await self._let_go()
        finally:  # also when it is cut short: what is left behind must not keep the next one out
            self._file.unlock()

    async def _let_go(self) -> None:
        """Drop the connection. Where that takes long, as a name server that does not answer may, it ends with the process."""
        try:
            async with asyncio.timeout(LET_GO):
                await self._servers.close(keep_session=True)
        except TimeoutError:
            log.warning("the connection to ZooKeeper has not ended within %g s: it ends with this process", LET_GO)

    async def _run(self) -> None:
        failures = 0
        while True:
            self._woken.clear()
            decision = decide(self._facts(), self._memory, self._rules())
            self._memory = decision.memory
            self._life.worked()
            if isinstance(decision.action, Rest):
                self._tell(decision)
                await self._rest(decision.action.until)
                continue
            failures = 0 if await self._try(decision) else failures + 1
            if failures:
                pause = min(BACK_OFF_FIRST * 2 ** min(failures, 10), BACK_OFF_MAX)
                await self._rest(boottime() + pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, guards nothing)

    async def _try(self, decision: Decision) -> bool:
        """Take a step; return whether it is certain that it was taken."""
        log.debug("%s: %s", decision.sentence, decision.action)
        try:
            await self._act(decision.action)
        except (ZkUnavailable, ZkUnknown, ZkRefused, NotEnded, OSError) as error:
            self._servers.doubt()
            self._voice.complain(f"{decision.sentence}: {_explain(error)}")
        except Exception:  # whatever it is, membership goes on
            log.exception("a step of the fence failed: %s", decision.sentence)
            self._servers.doubt()
        else:
            self._memory = reserved(self._memory, decision.action)
            return True  # how things stand then is told with the next rest
        self._tell(decision)
        return False

    async def _act(self, action: Action) -> None:
        match action:
            case membership.Save(saved):
                await asyncio.to_thread(self._file.save, saved)
                self._saved = saved
            case membership.Connect(resume):
                await self._servers.connect(resume)
            case membership.Drop():
                await self._servers.close()
            case membership.Look():
                await self._servers.look()
            case membership.Enter():
                await self._lease.clear()  # a new membership begins with nothing
                await self._servers.enter(action)
                self._lease.entered(action.incarnation)
                log.info("is a member of the cluster", extra={"incarnation": action.incarnation})
            case membership.Tell():
                await self._servers.tell(action)
            case membership.Leave(version):
                log.error("the agent has not run for %g s: the node gives itself up", self._settings.agent_grace)
                await self._lease.clear()
                await self._lease.tell()
                await self._servers.leave(version)

    async def _rest(self, until: float | None) -> None:
        pause = REST_MAX if until is None else min(max(until - boottime(), 0.0), REST_MAX)
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _facts(self) -> Facts:
        servers = self._servers
        return Facts(
            now=boottime(),
            boot=self._boot,
            link=servers.link,
            session=servers.session,
            looked=servers.looked,
            member=servers.member,
            lease=servers.lease,
            agent=self._link.present,
            maintenance=(self._settings.data_dir / "maintenance").exists(),
            saved=self._saved,
        )

    def _standing(self) -> Membership:
        return Membership(self._servers.incarnation, self._servers.link is Link.CONNECTED, self._servers.timeout)

    def _rules(self) -> Rules:
        session = max(self._settings.timing.session, self._servers.timeout)
        return Rules(agent_grace=self._settings.agent_grace, settle=session, patience=1.5 * session, calm=5 * session)

    def _tell(self, decision: Decision) -> None:
        if decision.status is not None:
            self._voice.say(decision.status, decision.sentence, self._servers.incarnation)
        self._publish()

    def _publish(self) -> None:
        self._watchdog.wake()
        state = self._voice.state
        self._link.publish(state | {"problem": state["problem"] or self._watchdog.problem, "lease": self._lease.state})

    def _grant_changed(self, grant: str, modified: int | None) -> None:
        self._lease.grant_changed(grant, modified)


def _guarded(account: Account, lease: LeaseKeeper) -> Guarded:
    return Guarded(frozenset(account.live), account.held.until, lease.revoked)


class Voice:
    """Says how the node stands: to the agent (`state`), to systemd (`tell`), and in the log, each thing once."""

    def __init__(self, node_id: str, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.state: dict[str, Any] = {"node_id": node_id, "incarnation": 0, "member": False, "status": Status.JOINING.value, "problem": ""}
        self._complaint = ""
        self._complained = -math.inf

    def say(self, status: Status, sentence: str, incarnation: int) -> None:
        """Take over how it stands now. `incarnation`: of our member znode, as far as is known; 0 = there is none."""
        if status is Status.MEMBER:
            self._complaint, self._complained = "", -math.inf
        elif status is Status.REFUSED:
            self.complain(sentence)
        member = status in (Status.MEMBER, Status.SUSPENDED) and incarnation > 0
        problem = "" if status is Status.MEMBER else self._complaint or sentence
        state = self.state | {"incarnation": incarnation, "member": member, "status": status.value, "problem": problem}
        if state != self.state:
            self.state = state
            log.log(logging.INFO if not problem else logging.WARNING, "%s", sentence, extra={"status": status.value})
            self._tell(f"{status.value}: {sentence}")

    def complain(self, complaint: str) -> None:
        """Log what goes wrong: at once if it is new, else every minute."""
        if complaint != self._complaint or boottime() - self._complained >= COMPLAINT_EVERY:
            log.error("%s", complaint)
            self._complained = boottime()
        self._complaint = complaint


def _explain(error: Exception) -> str:
    if isinstance(error, ZkRefused) and error.reason == "missing":
        return f"the cluster does not know this node: {error}; was it removed? Join it again with gestalt-agent join"
    if isinstance(error, ZkRefused) and error.reason == "denied":
        return f"ZooKeeper does not let this node in: {error}; was it removed, or its secret changed?"
    return str(error)
