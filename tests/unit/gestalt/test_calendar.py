"""The times of schedules: what cron means, and what clocks do in a time zone."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.spec.calendar import Calendar, Unreadable

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(cron: str, after: str, count: int = 3, timezone: str = BERLIN) -> list[str]:
    return [f"{time:%m-%d %H:%M}" for time in islice(Calendar(cron, timezone).coming(utc(after)), count)]


def test_a_time_that_clocks_leave_out_comes_as_much_later_as_they_are_put_forward() -> None:
    assert times("30 2 * * *", "2026-03-28T12:00") == ["03-29 01:30", "03-30 00:30", "03-31 00:30"]  # 03:30, then 02:30 in Berlin


def test_so_does_each_of_several_that_they_leave_out() -> None:
    assert times("*/20 2 * * *", "2026-03-28T12:00", 4) == ["03-29 01:00", "03-29 01:20", "03-29 01:40", "03-30 00:00"]


def test_what_is_left_out_comes_even_if_it_is_first_asked_for_after_the_change() -> None:
    assert times("*/20 2 * * *", "2026-03-29T01:10") == ["03-29 01:20", "03-29 01:40", "03-30 00:00"]
    assert times("30 2 * * *", "2026-03-29T01:29:59", 1) == ["03-29 01:30"]


def test_what_is_left_out_and_a_later_time_that_comes_with_it_count_once() -> None:
    assert times("30 2,3 * * *", "2026-03-28T12:00") == ["03-29 01:30", "03-30 00:30", "03-30 01:30"]


def test_a_time_that_comes_twice_counts_once() -> None:
    assert times("30 2 * * *", "2026-10-24T12:00") == ["10-25 00:30", "10-26 01:30", "10-27 01:30"]
    assert times("30 2 * * *", "2026-10-25T00:30", 1) == ["10-26 01:30"]
    assert times("0 */2 * * *", "2026-10-24T22:00", 2) == ["10-25 00:00", "10-25 03:00"]


@pytest.mark.parametrize("cron", ["0 * * * *", "0 */1 * * *", "0 0-23 * * *"])
def test_what_comes_each_hour_comes_in_both_hours_and_not_in_one_that_is_left_out(cron: str) -> None:
    assert times(cron, "2026-10-24T23:30", 4) == ["10-25 00:00", "10-25 01:00", "10-25 02:00", "10-25 03:00"]
    assert times(cron, "2026-03-29T00:00", 2) == ["03-29 01:00", "03-29 02:00"]
    assert times("15 0-23 * * *", "2026-10-03T14:00", timezone="Australia/Lord_Howe") == ["10-03 14:45", "10-03 16:15", "10-03 17:15"]


CHANGES = {
    "Europe/Berlin": "2026-03-29 2026-10-25",
    "Australia/Lord_Howe": "2026-04-04 2026-10-03",  # by half an hour
    "Africa/Casablanca": "2026-02-15 2026-03-22",  # for a month
    "America/Havana": "2026-03-08 2026-11-01",  # 0:00 is left out, or comes twice
    "Asia/Beirut": "2026-03-28 2026-10-24",  # at midnight
    "Antarctica/Troll": "2026-03-29 2026-10-25",  # by two hours
    "America/Nuuk": "2026-03-29 2026-10-25",  # in the evening
    "Pacific/Apia": "2011-12-30 2010-09-26",  # by a whole day
    "America/St_Johns": "2006-04-02 2006-10-29",  # a minute after midnight
    "UTC": "2026-03-29",
}


def _by_the_minute(cron: tuple[set[int], set[int]], zone: ZoneInfo, begin: datetime, end: datetime) -> list[datetime]:
    """Return what the rule says of minutes and hours, found by looking at each minute of the clocks."""
    minute, nothing = timedelta(minutes=1), timedelta(0)
    minutes, hours = cron
    time, found = begin - timedelta(days=2), set()
    before = time.astimezone(zone).utcoffset() or nothing
    while time <= end:
        here = time.astimezone(zone)
        offset = here.utcoffset() or nothing
        left_out = [here.replace(tzinfo=None) - step * minute for step in range(1, (offset - before) // minute + 1)]
        if len(hours) < 24:
            found.update(item.replace(tzinfo=UTC) - before for item in left_out if item.minute in minutes and item.hour in hours)
        if here.minute in minutes and here.hour in hours and (len(hours) == 24 or not here.fold):
            found.add(time)
        time, before = time + minute, offset
    return sorted(item for item in found if begin < item <= end)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days.split()]),
    st.sets(st.sampled_from([0, 1, 2, 13, 15, 20, 30, 40, 59]), min_size=1, max_size=4),
    st.one_of(st.sets(st.integers(0, 23), min_size=1, max_size=6), st.just(set(range(24)))),
    st.integers(-36 * 60, 36 * 60),
)
def test_wherever_clocks_are_changed_what_comes_is_what_the_rule_says(
    change: tuple[str, str], minutes: set[int], hours: set[int], off: int
) -> None:
    zone, day = change
    begin = utc(day) + timedelta(minutes=off)
    end = begin + timedelta(hours=40)
    hour = "*" if len(hours) == 24 else ",".join(map(str, sorted(hours)))
    calendar = Calendar(f"{','.join(map(str, sorted(minutes)))} {hour} * * *", zone)
    assert _until(calendar, begin, end) == _by_the_minute((minutes, hours), ZoneInfo(zone), begin, end)


WEEKDAYS = {
    "0": {6},
    "7": {6},
    "1-5": {0, 1, 2, 3, 4},
    "sat,sun": {5, 6},
    "5-7": {4, 5, 6},
    "fri-mon": {4, 5, 6, 0},
    "*/2": {6, 1, 3, 5},
}


@pytest.mark.parametrize(("weekday", "days"), WEEKDAYS.items())
def test_weekdays_are_those_of_cron(weekday: str, days: set[int]) -> None:
    calendar = Calendar(f"0 0 * * {weekday}", "UTC")
    assert {time.weekday() for time in islice(calendar.coming(utc("2026-01-01")), 20)} == days


@pytest.mark.parametrize(("cron", "why"), [
    ("0 3 * *", "it has 4 fields, not 5"), ("61 * * * *", "61"), ("0 3 * * mot", "'mot' is no weekday"),
    ("0 3 1 * mon", "days of the month and weekdays"), ("x * * * *", "x"),
])  # fmt: skip
def test_what_cannot_be_read_says_why(cron: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        Calendar(cron, "UTC")


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 3 1 * *", "15 4 * * sun", "0 0 29 2 *"]),
    st.integers(0, 3 * 365 * 24 * 60),
    st.integers(0, 60 * 24 * 60),
)
def test_the_last_time_is_the_last_of_those_that_come(cron: str, start: int, length: int) -> None:
    calendar, after = Calendar(cron, BERLIN), utc("2024-01-01") + timedelta(minutes=start)
    until = after + timedelta(minutes=min(length, 2000) if cron.startswith("*") else length)
    there = _until(calendar, after, until)
    assert calendar.last(after, until) == (there[-1] if there else None)
    assert there == sorted(set(there))


def _until(calendar: Calendar, after: datetime, until: datetime) -> list[datetime]:
    found = []
    for time in calendar.coming(after):
        if time > until:
            break
        found.append(time)
    return found


def test_nothing_is_loaded_for_it_before_there_is_a_schedule() -> None:
    program = "import sys, gestalt.coordinator.runs, gestalt.spec.load; sys.exit('apscheduler' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
