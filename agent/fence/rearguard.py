"""What a fence leaves behind that ends in order while something exclusive is at work: it ends that with the lease, unless a fence is back.

A fence that is told to end does not know what for. At a restart the next one takes over within the lease. But the machine may shut
down, which takes as long as what runs takes to end, or fence and agent are stopped or erased together: nobody else would end what is
held, and another node gets it meanwhile. It is a fork, so that no program is started, and it needs no file that an upgrade takes away,
nor the fence's folder, which may be erased, unmounted or on a disk that hangs, before the fence ends or after: what was known stays
known. When a shutdown ends all that is left, it ends what is held at once: that may ignore the same signal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from gestalt.clock import boottime
from gestalt.errors import GestaltError, Kind
from gestalt.log import descriptors

from .cgroups import kill_cgroup, shut_cgroup
from .lease import Held, closed
from .saved import HeldFile, SavedFile

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK = 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT)
_THREADS = 8


async def leave_at_the_end(folder: Path, held: Callable[[], Held], kill: float) -> None:
    """Leave one behind when the loop ends, and with it cancels this: however that comes, the loop still takes signals that come meanwhile.

    A moment later one more signal to stop would end the process, and nobody would be left.
    """
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        leave(folder, held(), kill)


def leave(folder: Path, held: Held, kill: float) -> None:
    """Leave one behind, if something is at work; to be called when the fence has ended. Never fails.

    Args:
        folder: `data_dir` of the fence.
        held: what the fence held at its end, in this life of the machine.
        kill: seconds that ending something may take.
    """
    if not held.live:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        is_fence = os.fork() != 0
    except OSError as error:
        log.critical("nobody ends what is held before a fence is back: %s", error)
        is_fence = True
    if is_fence:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    status = 1
    try:
        _let_go()
        Rearguard(folder, held, kill).run()
        status = 0
    except Exception:  # it is the last one who could tell
        log.exception("what is held could not be ended")
    finally:
        os._exit(status)  # nothing of the fence's own end happens twice


def _let_go() -> None:
    """Have nothing open any more that the fence had: its lock, a watchdog and connections would seem to be in use.

    The numbers stay taken, by what holds nobody up: objects that the fence has left may still close them, and must not close another's.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in {int(path.name) for path in Path("/proc/self/fd").iterdir()} - {0, 1, 2, null} - descriptors():
            os.dup2(null, number, inheritable=False)
    except OSError as error:
        log.error("what the fence had open stays open: %s", error)


def has_acted(known: Held, found: Held) -> bool:
    """Whether a fence sees to what is held, by what is on disk: it has written since, or ended it all.

    That one is there is not enough: it may be about to start, and come to nothing. `found` is empty where there is no file.
    """
    is_another = (found.boot, found.incarnation) != (known.boot, known.incarnation)
    return bool(found.boot) and (is_another or found.until > known.until or not found.live)


def _end_cgroup(path: Path, deadline: float) -> bool:
    shut_cgroup(path)
    return kill_cgroup(path, deadline)


def _is_told(pause: float) -> bool:
    """Wait, at most for `pause` seconds, to be told to end."""
    return signal.sigtimedwait(_ENDING, pause) is not None


def _asked(ask: Callable[[], T]) -> Future[T]:
    """Return what will be answered; who asks is left behind where a disk holds it up."""
    answer: Future[T] = Future()

    def answered() -> None:
        try:
            answer.set_result(ask())
        except (GestaltError, OSError) as error:
            answer.set_exception(error)

    threading.Thread(target=answered, name="disk", daemon=True).start()
    return answer


class Rearguard:
    """Ends what is held when its lease is over, or when told to, unless a fence is at work. Blocks.

    `end` kills what is in a cgroup until then (seconds since boot), and returns whether nothing is left.
    """

    def __init__(self, folder: Path, held: Held, kill: float, end: Callable[[Path, float], bool] = _end_cgroup) -> None:
        self._folder = folder
        self._file = HeldFile(folder)
        self._lock = SavedFile(folder)
        self._held = held
        self._kill = kill
        self._patience = min(LOOK, kill / 4)
        self._end_one = end
        self._late: Future[Any] | None = None

    def run(self) -> None:
        """Return when nothing is left to be ended, or a fence sees to it."""
        told = False
        while self._held.live:
            now = boottime()
            if self._held.until > now and not told:
                if self._is_relieved():  # looked at early: by the end of the lease the disk may not tell
                    return
                told = _is_told(min(max(self._held.until - boottime(), 0.0), LOOK))
            elif self._alone():
                if self._turn(told, now + self._kill):
                    told = _is_told(LOOK) or told  # a fence may come between
            elif has_acted(self._held, self._found()):
                return
            else:
                told = _is_told(self._patience) or told

    def _is_relieved(self) -> bool:
        """Whether a fence is here that sees to it. Where none has written, its lock is left alone: it may be about to take that."""
        found = self._found()
        if not has_acted(self._held, found):
            return False
        if not self._alone():
            return True
        if found.boot == self._held.boot:  # the last one of a fence that is gone
            self._held = found
        self._lock.unlock()
        return False

    def _turn(self, told: bool, deadline: float) -> bool:
        """Look, end what is due by `deadline`, in seconds since boot, and let a fence in again; return whether something resists."""
        try:
            found = self._found()
            if found.boot == self._held.boot:  # else there is no file any more, which ends nothing
                self._held = found
            if not told and self._held.until > boottime():
                return False
            self._end(deadline)
            return bool(self._held.live)
        finally:
            self._lock.unlock()

    def _found(self) -> Held:
        """Return what a fence that was here meanwhile has written down. A disk that does not tell says nothing."""
        try:
            return self._disk(self._file.load)
        except GestaltError as error:
            log.error("%s", error.message)
            return Held()

    def _alone(self) -> bool:
        """Keep any fence away, unless one is there. A disk that does not let us do so keeps nobody from ending what is held."""
        if self._late is None or self._late.done():
            self._lock.unlock()  # what was answered late may be that we have it
        try:
            self._disk(lambda: self._lock.lock(make=False))
        except GestaltError as error:
            if isinstance(error.__cause__, BlockingIOError):
                return False
            log.error("%s", error.message)
        return True

    def _disk(self, ask: Callable[[], T]) -> T:
        """Ask the disk, and not for long: what is held has to end in time. One that still owes an answer is not asked more.

        Raises:
            GestaltError, OSError: it does not answer, or answers this.
        """
        if self._late is None or self._late.done():
            self._late = asked = _asked(ask)
            wait((asked,), self._patience)
            if asked.done():
                return asked.result()
        raise GestaltError(Kind.TIMED_OUT, f"the disk of {self._folder} does not answer")

    def _end(self, deadline: float) -> None:
        """Kill all that is held, by `deadline`, and write down what has ended; what has not stays, to be killed again."""
        doomed = self._held.live
        log.warning("no fence is here: ending %s", ", ".join(sorted(doomed)))
        paths = {path: Path(path) for what in doomed.values() for path in what.cgroups}
        with ThreadPoolExecutor(_THREADS) as threads:
            gone = dict(zip(paths, threads.map(lambda path: self._end_one(path, deadline), paths.values()), strict=True))
        held: Held = self._held
        for name, what in doomed.items():
            if all(gone[path] for path in what.cgroups):
                held = closed(held, name)
                log.warning("%s was ended", name, extra={"instance": name})
            else:
                log.critical("%s could not be ended within %g s", name, self._kill, extra={"instance": name})
        self._held = held
        if not self._lock.locked:  # the folder is gone, or not ours
            return
        try:
            self._disk(lambda: self._file.save(held))
        except (GestaltError, OSError) as error:
            log.error("what has ended is not written down: %s", error)
