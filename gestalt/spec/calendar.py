"""The calendar of schedules: when the times of a cron expression come, in a time zone, with all that clocks there do.

APScheduler does the arithmetic, and nothing else; it is loaded when the first schedule is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

CRON_ALLOWED = 'minute, hour, day, month and weekday, like "0 3 * * *" (every day at 3:00) or "*/15 8-18 * * mon-fri"'
TIMEZONE_ALLOWED = "a time zone like Europe/Berlin, or UTC"
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ITEM = re.compile(r"(\*|[0-7]|[a-z]{3})(?:-([0-7]|[a-z]{3}))?(?:/([1-7]))?")
_STEP = timedelta(microseconds=1)
_LOOK_BACK = tuple(timedelta(minutes=minutes) for minutes in (5, 60, 6 * 60, 24 * 60, 7 * 24 * 60, 31 * 24 * 60, 366 * 24 * 60))


class Unreadable(ValueError):
    """A schedule that says nothing; the sentence says why."""


class Calendar:
    """The times of one schedule. All times that go in and come out are in UTC.

    A time that the clocks leave out comes as much later as they are put forward. One that comes twice counts once, the first time; but what
    comes at each hour (`*` or `*/N` as the hour) does so in both.
    """

    def __init__(self, cron: str, timezone: str) -> None:
        self._trigger = _trigger(cron, timezone)
        self._zone = zone_of(timezone)
        self._is_hourly = cron.split()[1].startswith("*")

    def next(self, after: datetime) -> datetime | None:
        """Return the first time after a moment; None when there is none."""
        while (found := self._next(after)) is not None and self._is_repeated(found):
            after = found
        return found

    def _next(self, after: datetime) -> datetime | None:
        found = cast("datetime | None", self._trigger.get_next_fire_time(None, (after + _STEP).astimezone(self._zone)))
        return found.astimezone(UTC) if found is not None else None

    def _is_repeated(self, time: datetime) -> bool:
        return not self._is_hourly and time.astimezone(self._zone).fold == 1

    def last(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last time after one moment and not after another; None when there is none."""
        for back in _LOOK_BACK:
            start = max(after, until - back)
            found, time = None, self.next(start)
            while time is not None and time <= until:
                found, time = time, self.next(time)
            if found is not None or start == after:
                return found
        return None

    def coming(self, after: datetime) -> Iterator[datetime]:
        """Yield the times after a moment."""
        time = self.next(after)
        while time is not None:
            yield time
            time = self.next(time)

    def check(self) -> None:
        """Tell what nobody can have meant.

        Raises:
            Unreadable: it never comes.
        """
        if self.next(datetime(2024, 1, 1, tzinfo=UTC)) is None:
            raise Unreadable("there is no such day")


@cache
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        Unreadable: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise Unreadable("there is no such time zone") from None


@cache
def _trigger(cron: str, timezone: str) -> CronTrigger:
    from apscheduler.triggers.cron import CronTrigger  # late: few descriptions have a schedule, and it is large

    fields = cron.lower().split()
    if len(fields) != 5:
        raise Unreadable(f"it has {len(fields)} fields, not 5")
    minute, hour, day, month, weekday = fields
    if "*" not in (day[:1], weekday[:1]):
        raise Unreadable("it names days of the month and weekdays: some take that as both, others as either")
    try:
        return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(weekday), timezone=zone_of(timezone))
    except ValueError as error:
        raise Unreadable(str(error)) from None


def _weekdays(field: str) -> str:
    """Return weekdays by name: to cron, 0 and 7 are Sunday, to APScheduler 0 is Monday."""
    if field == "*":
        return field
    found: set[int] = set()
    for item in field.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise Unreadable(f"{item!r} is no weekday: sun to sat, or 0 to 7")
        first, last, step = match.groups()
        start, end = (0, 6) if first == "*" else (_day(first), _day(last or first))
        if last and end < start:
            end += 7
        found.update(number % 7 for number in range(start, end + 1, int(step or 1)))
    return ",".join(_DAYS[number] for number in sorted(found))


def _day(text: str) -> int:
    if text.isdigit():
        return int(text)
    if text not in _DAYS:
        raise Unreadable(f"{text!r} is no weekday: sun to sat, or 0 to 7")
    return _DAYS.index(text)


def calendar_of(schedule: Any) -> Calendar:
    """Return the times of a schedule that is valid."""
    return Calendar(schedule.cron, schedule.timezone)
