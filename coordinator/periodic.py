"""When a job with a schedule runs by itself: a pure function from its calendar and the time to what is to be started.

How far the calendar has been gone through is part of the job (`App.fired`), and is written in the commit that starts the run: so each
time counts once, whoever leads. The id of the run follows from its time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from gestalt.spec.calendar import calendar_of, zone_of
from gestalt.spec.schema import Schedule

from .records import App

LATE = timedelta(seconds=60)
"""A time that was so long ago was missed: nobody led, or the clock was put forward."""
PUT_BACK = timedelta(hours=1)
"""A clock that was put back by more than this begins the calendar anew; by less, what was done is not done again."""
LOOK_AGAIN = 60.0
"""Seconds after which the clock is looked at again, whatever is next: it may have been put forward."""
SHOWN = 3
"""So many of the next times are shown."""


@dataclass(frozen=True, slots=True)
class Due:
    """What a calendar asks for now.

    `fired`: up to when it has been gone through. `run`: the time for which a run is to be started, None = none is. `told`: why a time that
    came is left out, empty = none is. `wake_in`: seconds until something may be due.
    """

    fired: datetime
    run: datetime | None = None
    told: str = ""
    wake_in: float = LOOK_AGAIN


def due(schedule: Schedule, fired: str, now: datetime, going: str) -> Due:
    """Say what is due.

    Args:
        schedule: of the job.
        fired: up to when the calendar has been gone through, ISO; empty = it begins now.
        now: the wall clock.
        going: the id of a run of the job that is under way, empty = there is none.
    """
    since = datetime.fromisoformat(fired).astimezone(UTC) if fired else now
    since = now if since > now + PUT_BACK else since
    calendar = calendar_of(schedule)
    time = calendar.last(since, now)
    coming = calendar.next(max(since, now))
    wake_in = min(LOOK_AGAIN, max(0.0, (coming - now).total_seconds())) if coming is not None else LOOK_AGAIN
    if time is None:
        return Due(since, wake_in=wake_in)
    if now - time >= LATE and schedule.missed == "skip":
        return Due(time, told=f"the run of {shown(schedule, time)} is left out: it was missed, nobody led at that time", wake_in=wake_in)
    if going and schedule.overlap == "forbid":
        return Due(time, told=f"the run of {shown(schedule, time)} is left out: run {going} is still under way", wake_in=wake_in)
    return Due(time, run=time, wake_in=wake_in)


def run_id(app: App, time: datetime) -> str:
    """Return the id of the run of a time: the same whoever asks, and how often."""
    return f"{time.astimezone(UTC):%Y%m%dt%H%Mz}-{app.uid}"


def next_times(schedule: Schedule, after: datetime) -> tuple[datetime, ...]:
    """Return the next times after a moment."""
    return tuple(islice(calendar_of(schedule).coming(after), SHOWN))


def shown(schedule: Schedule, time: datetime) -> str:
    """Return a time in the zone of a schedule, for people."""
    return f"{time.astimezone(zone_of(schedule.timezone)):%Y-%m-%d %H:%M} {schedule.timezone}"


def told(schedule: Schedule, times: Iterable[datetime]) -> str:
    """Return when the next runs are, as a sentence."""
    words = [shown(schedule, time).removesuffix(f" {schedule.timezone}") for time in times]
    return f"next runs: {', '.join(words)} ({schedule.timezone})" if words else "there is no next run"
