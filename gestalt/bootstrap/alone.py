"""One operator at a time on a host: a lock there that lasts as long as the connection of who has it, and no longer."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gestalt import shell
from gestalt.clock import wall
from gestalt.errors import Detail, GestaltError, Kind

from .each import each
from .hosts_file import HostSettings
from .ssh import Remote

_NO_LOCK = 70
"""That neither sudo nor ssh end with."""

HOLD = """
umask 077
file=/run/gestalt-bootstrap.operator
: >>"$file" || exit NO_LOCK
exec 9>>"$file"
flock --timeout 3 --conflict-exit-code 75 9
case $? in
  0) ;;
  75) echo "taken $(head -n 1 "$file")"; exit ;;
  *) exit NO_LOCK ;;
esac
echo "$$ $1" >"$file"
echo held
until read -r -t 10 _ || [ $? -le 128 ]; do echo; done
""".replace("NO_LOCK", str(_NO_LOCK))
"""Who we are. It waits a little: the lock of one that was killed goes with its connection. It is held until our side of standard input is
closed, and something is said now and then, so that TCP notices when our machine is gone. For bash."""

TAKE_LIMIT = 30.0
_RELEASE_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class Hold:
    """The lock of a host. `process`: it is held while this one runs; None: it is that of another host, which is the same machine."""

    process: Process | None

    @property
    def is_lost(self) -> bool:
        """Whether another operator may have it."""
        return self.process is not None and self.process.returncode is not None

    async def release(self) -> None:
        """Give it up, and wait until it is free."""
        if self.process is None or self.process.returncode is not None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_LIMIT):
                await self.process.wait()
        if self.process.returncode is None:
            shell.kill_group(self.process)
            await self.process.wait()


def operator() -> str:
    """Return who we are, in words for another operator."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # one whom this machine does not know by name
        name = f"user {os.getuid()}"
    return f"{name} on {socket.gethostname()} (process {os.getpid()}), since {wall():%Y-%m-%d %H:%M:%S} UTC"


@asynccontextmanager
async def alone(
    hosts: Sequence[HostSettings], remotes: Mapping[str, Remote], who: str, parallel: int
) -> AsyncIterator[dict[str, Hold | GestaltError]]:
    """Have the locks of all hosts while the block runs; instead of a lock the error of a host that cannot give one.

    They are taken in the order of addresses, the first alone, so that of two operators with the same hosts one gets all, however their
    files are ordered.

    Raises:
        GestaltError: CONFLICT, when another operator has one; then we have none.
    """
    ordered = sorted(hosts, key=lambda host: host.address)
    taken: dict[str, Hold | GestaltError] = {}

    async def one(host: HostSettings) -> None:
        try:
            taken[host.name] = await _take(remotes[host.name], who)
        except GestaltError as error:
            taken[host.name] = error

    try:
        for part in (ordered[:1], ordered[1:]):
            await each(part, one, parallel)
            _refuse(taken)
        yield taken
    finally:
        await asyncio.gather(*(hold.release() for hold in taken.values() if isinstance(hold, Hold)))


def _refuse(taken: Mapping[str, Hold | GestaltError]) -> None:
    """Raise when another operator has one of the locks."""
    others = [(name, error) for name, error in taken.items() if isinstance(error, GestaltError) and error.kind is Kind.CONFLICT]
    if others:
        details = [Detail(name, f"{error.message} ({error.hint})") for name, error in others]
        hint = "wait until that bootstrap has ended, then repeat this; --plan shows meanwhile what there is"
        raise GestaltError(Kind.CONFLICT, "another operator bootstraps these hosts; nothing was changed on any", hint=hint, details=details)


async def _take(remote: Remote, who: str) -> Hold:
    """Take the lock of a host.

    Raises:
        GestaltError: CONFLICT, when another operator has it; UNAVAILABLE, when it cannot be taken there.
    """
    process = await remote.start("bash", "-c", HOLD, "bash", who)
    assert process.stdout is not None
    assert process.stderr is not None
    hold = Hold(process)
    try:
        async with asyncio.timeout(TAKE_LIMIT):
            word, _, holder = (await process.stdout.readline()).decode(errors="replace").strip().partition(" ")
            if word == "held":
                return hold
            said = await process.stderr.read()
            code = await process.wait()
    except TimeoutError as error:
        await hold.release()
        hint = f"try it by hand: ssh {remote.host.destination}"
        raise GestaltError(Kind.UNAVAILABLE, f"its lock was not given within {TAKE_LIMIT:g} s", hint=hint) from error
    except BaseException:
        await hold.release()
        raise
    if code == _NO_LOCK:
        what = f"a lock cannot be had there: {said.decode(errors='replace').strip()}"
        raise GestaltError(Kind.UNAVAILABLE, what, hint="/run has to be writable and have room, and flock to be there (util-linux)")
    if word != "taken":
        raise remote.disobeyed(shell.Completed(("bash",), code, word.encode(), said))
    number, _, other = holder.partition(" ")
    if other == who:
        return Hold(None)
    hint = f"when that machine is gone for good, end what holds it there: kill {number}" if number.isdigit() else ""
    raise GestaltError(Kind.CONFLICT, f"{other or 'somebody'} is at work there", hint=hint)
