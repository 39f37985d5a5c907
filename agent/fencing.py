"""What an agent has because there is a fence: the link to it, and who acts when it, ZooKeeper or the whole cluster is out of reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gestalt.clock import boot_id
from gestalt.config import AgentSettings

from .board import Board
from .coordinators import KnownCoordinators
from .disk import Disk
from .engine import Manager
from .exclusive import Exclusive, NoFence
from .failsafe import Failsafe
from .fence_link import FenceLink
from .guard import Guard
from .instances import Instances
from .isolation import IsolationWatch
from .renewal import Renewal
from .returning import NeverAway, Patience, Returning
from .session import Session


class Fencing:
    """Nothing at all in an appliance."""

    def __init__(self, settings: AgentSettings, board: Board) -> None:
        self._settings = settings
        self._link: FenceLink | None = None
        self._guard = Guard(settings.run_dir)
        self._board = board
        self._returning: Returning | None = None
        if settings.fence is not None:
            self._link = FenceLink(settings.fence, settings.node_id, board, self._guard.take)

    @property
    def exclusive(self) -> Exclusive:
        return self._link or NoFence()

    def returning(self, disk: Disk) -> Patience:
        """Return what has the instances wait when the node was away. To be called once, before `first` is asked for."""
        if self._link is None:
            return NeverAway()
        self._returning = Returning(self._settings.data_dir / "presence.json", disk, boot_id())
        self._board.on_incarnation(self._returning.member)
        return self._returning

    @property
    def first(self) -> Sequence[Manager]:
        """Those that come before anything that runs is looked at."""
        returning = (self._returning,) if self._returning is not None else ()
        return (self._guard, self._link, *returning) if self._link is not None else ()

    @property
    def summaries(self) -> Sequence[Callable[[], str]]:
        return (self._link.summary,) if self._link is not None else ()

    def later(self, instances: Instances, session: Session, known: KnownCoordinators) -> Sequence[Manager]:
        """Those that act on what the others know."""
        if self._link is None:
            return ()
        isolation = IsolationWatch(self._link, lambda: session.connected, instances.isolate)
        failsafe = (Failsafe(self._settings, self._link, lambda: known.configured),) if self._settings.failsafe else ()
        return (isolation, *failsafe, Renewal(self._settings, lambda: known.addresses))
