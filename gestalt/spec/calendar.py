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
_EVERY_HOUR = re.compile(r"(\*|0-23)(/1)?")
_STEP = timedelta(microseconds=1)
_NO_TIME = timedelta(0)
_DAY = timedelta(days=1)
_LOOK_BACK = tuple(timedelta(minutes=minutes) for minutes in (5, 60, 6 * 60, 24 * 60, 7 * 24 * 60, 31 * 24 * 60, 366 * 24 * 60))


class Unreadable(ValueError):
    """A schedule that says nothing; the sentence says why."""


class Calendar:
    """The times of one schedule. All times that go in and come out are in UTC.

    What comes in every hour follows the clocks: it comes as often as they show its time, twice or never where they are changed. All else
    comes once: a time that the clocks leave out as much later as they are put forward, one that they show twice the first time.
    """

    def __init__(self, cron: str, timezone: str) -> None:
        self._trigger = _trigger(cron)
        self._zone = zone_of(timezone)
        self._follows = _EVERY_HOUR.fullmatch(cron.split()[1]) is not None

    def next(self, after: datetime) -> datetime | None:
        """Return the first time after a moment; None when there is none."""
        here = after.astimezone(self._zone)
        first = min(self._offsets(here))
        found: datetime | None = None
        for shown in self._shown(after.astimezone(UTC).replace(tzinfo=None) + first):
            offsets = self._offsets(shown.replace(tzinfo=self._zone))
            if found is not None and (shown - max(offsets)).replace(tzinfo=UTC) >= found:
                return found
            coming = [time for time in self._times(shown) if time > after and (found is None or time < found)]
            found = min(coming, default=found)
            if found is not None and len(offsets) == 1:  # from here on what is shown later comes later
                return found
        return found

    def _shown(self, since: datetime) -> Iterator[datetime]:
        """Yield what clocks show when a time of the schedule comes, as if they were never changed."""
        found = cast("datetime | None", self._trigger.get_next_fire_time(None, since.replace(tzinfo=UTC)))
        while found is not None:
            yield found.replace(tzinfo=None)
            found = cast("datetime | None", self._trigger.get_next_fire_time(None, found + _STEP))

    def _times(self, shown: datetime) -> list[datetime]:
        """Return when the schedule has a time come that clocks show, or would have shown."""
        first, second = (shown.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if not self._follows:
            return [first]
        return [time for time in sorted({first, second}) if time.astimezone(self._zone).replace(tzinfo=None, fold=0) == shown]

    def _offsets(self, time: datetime) -> set[timedelta]:
        """Return how far the clocks of the zone are from UTC around a time: no change of theirs reaches farther than a day."""
        return {cast("timedelta", (time + days).utcoffset()) for days in (-_DAY, _NO_TIME, _DAY)}

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
def _trigger(cron: str) -> CronTrigger:
    """Return what reckons with the days and hours of a schedule as if there were no zones: what clocks do is reckoned with here."""
    from apscheduler.triggers.cron import CronTrigger  # late: few descriptions have a schedule, and it is large

    fields = cron.lower().split()
    if len(fields) != 5:
        raise Unreadable(f"it has {len(fields)} fields, not 5")
    minute, hour, day, month, weekday = fields
    if "*" not in (day[:1], weekday[:1]):
        raise Unreadable("it names days of the month and weekdays: some take that as both, others as either")
    try:
        return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(weekday), timezone=UTC)
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
