"""What a fence leaves behind that ends in order while something exclusive is at work: it ends that with the lease, unless a fence is back.

A fence that is told to end does not know what for. At a restart the next one takes over within the lease. But the machine may shut down,
which takes as long as what runs takes to end, or fence and agent are stopped or erased together: nobody else would end what is held, and
another node gets it meanwhile. It is a fork, so that no program is started, and it needs no file that an upgrade takes away. When a
shutdown ends all that is left, it ends what is held at once: that may ignore the same signal.
"""

from __future__ import annotations

import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gestalt.clock import boottime
from gestalt.errors import GestaltError

from .cgroups import kill_cgroup, shut_cgroup
from .lease import Held, Holding, closed
from .saved import HeldFile, SavedFile

log = logging.getLogger(__name__)

LOOK = 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT)
_THREADS = 8


def leave(folder: Path, boot: str, kill: float) -> None:
    """Leave one behind, if something is held in this life of the machine; to be called when the fence has let everything go.

    Args:
        folder: `data_dir` of the fence.
        boot: the present life of the machine.
        kill: seconds that ending something may take.
    """
    guard = Rearguard(folder, boot, kill)
    if not guard.live:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    if os.fork():
        return
    status = 1
    try:
        guard.run()
        status = 0
    except Exception:  # it is the last one who could tell
        log.exception("what is held could not be ended")
    finally:
        os._exit(status)  # nothing of the fence's own end happens twice


class Rearguard:
    """Ends what is held when its lease is over, or when told to, unless a fence is at work. Blocks."""

    def __init__(self, folder: Path, boot: str, kill: float) -> None:
        self._file = HeldFile(folder)
        self._lock = SavedFile(folder)
        self._boot = boot
        self._kill = kill
        self._held = self._file.load()

    @property
    def live(self) -> dict[str, Holding]:
        """What may be at work, as far as is known."""
        return dict(self._held.live) if self._held.boot == self._boot else {}

    def run(self) -> None:
        """Return when nothing is left to be ended, or a fence sees to it."""
        told = False
        while self.live:
            left = self._held.until - boottime()
            if left > 0 and not told:
                told = signal.sigtimedwait(_ENDING, min(left, LOOK)) is not None
                continue
            if not self._alone():
                return
            try:
                self._look()
                if told or self._held.until <= boottime():
                    self._end()
            finally:
                self._lock.unlock()

    def _look(self) -> None:
        """Learn what a fence that was here meanwhile has written down. A disk that does not tell changes nothing."""
        try:
            self._held = self._file.load()
        except GestaltError as error:
            log.error("%s", error.message)

    def _alone(self) -> bool:
        """Keep any fence away, unless one is there. A disk that does not let us do so keeps nobody from ending what is held."""
        try:
            self._lock.lock()
        except GestaltError as error:
            return not isinstance(error.__cause__, BlockingIOError)
        return True

    def _end(self) -> None:
        """Kill all that is held, and write down what has ended; what has not stays, to be killed again."""
        doomed = self.live
        log.warning("no fence is here: ending %s", ", ".join(sorted(doomed)))
        deadline = boottime() + self._kill
        paths = {path: Path(path) for what in doomed.values() for path in what.cgroups}
        with ThreadPoolExecutor(_THREADS) as threads:
            gone = dict(zip(paths, threads.map(lambda path: _end_cgroup(path, deadline), paths.values()), strict=True))
        held: Held = self._held
        for name, what in doomed.items():
            if all(gone[path] for path in what.cgroups):
                held = closed(held, name)
                log.warning("%s was ended", name, extra={"instance": name})
            else:
                log.critical("%s could not be ended within %g s", name, self._kill, extra={"instance": name})
        self._held = held
        try:
            self._file.save(held)
        except OSError as error:
            log.error("what has ended is not written down: %s", error)


def _end_cgroup(path: Path, deadline: float) -> bool:
    shut_cgroup(path)
    return kill_cgroup(path, deadline)
