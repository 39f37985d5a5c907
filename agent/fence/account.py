"""What is held here: on disk before anything else, and killed when it has to be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from gestalt.clock import boottime

from .cgroups import kill_cgroup, open_cgroup, pids_in, remove_cgroup, shut_cgroup
from .lease import Held, Holding, closed, ended
from .saved import HeldFile

log = logging.getLogger(__name__)

_THREADS = ThreadPoolExecutor(8, thread_name_prefix="gestalt-kill")
"""Of its own: a disk that hangs must not delay a kill."""

NOTED_WITHIN = 0.2
"""Seconds for which the disk is waited for after a kill: something else may have to end, too."""


class Account:
    """`changed` is called after each change. `kill`: seconds that ending something may take."""

    def __init__(self, file: HeldFile, boot: str, kill: float, changed: Callable[[], None]) -> None:
        self._file = file
        self._kill_limit = kill
        self.announce = changed
        self._changing = asyncio.Lock()
        self._noting: dict[str, asyncio.Future[Held]] = {}
        self._ending: dict[str, Holding] = {}
        self.boot = boot
        self.held = file.load()

    def begin(self, held: Held) -> None:
        """Begin with this, on disk if that can be: a later life must not take what ZooKeeper was told for longer."""
        if held != self.held:
            try:
                self._file.save(held)
            except OSError as error:
                log.error("what is held is not written down anew: %s", error)
            self.held = held

    @property
    def present(self) -> Held:
        """What is held, unless it was in another life of the machine: of that nothing is at work any more."""
        return self.held if self.held.boot == self.boot else Held()

    @property
    def live(self) -> Mapping[str, Holding]:
        """What may be at work."""
        return self.present.live

    @property
    def closed(self) -> Mapping[str, Holding]:
        """What was killed and is not handed back."""
        return self.present.closed

    def is_ending(self, name: str) -> bool:
        """Whether it is being killed: that is told before it happens, as the disk may take its time to know that it has."""
        return name in self._ending

    async def change(self, change: Callable[[Held], Held]) -> Held:
        """Change it, on disk first; once begun, nothing interrupts that.

        Raises:
            OSError: it cannot be written down, so nothing changed.
        """
        return await asyncio.shield(asyncio.ensure_future(self._apply(change)))

    async def _apply(self, change: Callable[[Held], Held]) -> Held:
        async with self._changing:
            after = change(self.held)
            if after != self.held:
                await asyncio.to_thread(self._file.save, after)
                self.held = after
                self._ending = {name: what for name, what in self._ending.items() if after.holdings.get(name) == what}
                self.announce()
            return after

    async def end(self, names: Iterable[str]) -> tuple[str, ...]:
        """Kill these, and close what has ended; return what has not within the time for that, or is not written down as closed yet.

        Raises:
            OSError: it cannot be written down that something has ended.
        """
        deadline = boottime() + self._kill_limit
        doomed = {name: self.held.holdings[name] for name in names if name in self.held.holdings}
        self._ending |= doomed
        self.announce()
        gone = dict(zip(doomed, await asyncio.gather(*(_kill(what, deadline) for what in doomed.values())), strict=True))
        for name in (name for name in doomed if gone[name]):
            log.warning("%s was ended", name, extra={"instance": name})
        for name in (name for name in doomed if not gone[name]):
            log.critical("%s could not be ended within %g s", name, self._kill_limit, extra={"instance": name})
        await self._note({name: what for name, what in doomed.items() if gone[name]})
        return tuple(name for name, what in doomed.items() if not gone[name] or self.held.holdings.get(name) == what)

    async def _note(self, over: Mapping[str, Holding]) -> None:
        """Have the disk know what has ended, if it answers soon; else that goes on."""
        for name in over.keys() - {name for name, task in self._noting.items() if not task.done()}:
            self._noting[name] = asyncio.ensure_future(self.change(partial(_close, name=name, what=over[name])))
        if over:
            done, late = await asyncio.wait([self._noting[name] for name in over], timeout=NOTED_WITHIN)
            self._noting = {name: task for name, task in self._noting.items() if task not in done}
            if late:
                log.error("the disk does not take it that %s ended", ", ".join(over))
            for task in done:
                task.result()

    async def reopen(self, what: Holding) -> None:
        """It is held anew: things may start again in its cgroups."""
        await asyncio.to_thread(_for_each, open_cgroup, what)

    async def release(self, name: str) -> None:
        """Nothing of it is left, and nothing more is started: forget it, and remove the cgroups that were only made to shut them."""
        what = self.held.holdings.get(name)
        await self.change(lambda held: ended(held, name))
        if what is not None and what.closed:
            await asyncio.to_thread(_for_each, remove_cgroup, what)

    async def keep_closed(self) -> None:
        """What was killed must not come up again, whoever still has it in hand."""
        for name, what in self.closed.items():
            if has_processes(what):
                log.error("%s came up again after its end, and is killed", name, extra={"instance": name})
                await _kill(what, boottime() + self._kill_limit)


def has_processes(what: Holding) -> bool:
    return any(pids_in(Path(item)) for item in what.cgroups)


def _for_each(act: Callable[[Path], None], what: Holding) -> None:
    for item in what.cgroups:
        act(Path(item))


def _close(held: Held, name: str, what: Holding) -> Held:
    return closed(held, name) if held.holdings.get(name) == what else held


async def _kill(what: Holding, deadline: float) -> bool:
    loop = asyncio.get_running_loop()
    return all(await asyncio.gather(*(loop.run_in_executor(_THREADS, _end_cgroup, Path(item), deadline) for item in what.cgroups)))


def _end_cgroup(path: Path, deadline: float) -> bool:
    shut_cgroup(path)
    return kill_cgroup(path, deadline)
