"""The times of schedules: what cron means, and what clocks do in a time zone."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt.spec.calendar import Calendar, Unreadable

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(cron: str, after: str, count: int = 3, timezone: str = BERLIN) -> list[str]:
    return [f"{time:%m-%d %H:%M}" for time in islice(Calendar(cron, timezone).coming(utc(after)), count)]


def test_a_time_that_clocks_leave_out_comes_as_much_later_as_they_are_put_forward() -> None:
    assert times("30 2 * * *", "2026-03-28T12:00") == ["03-29 01:30", "03-30 00:30", "03-31 00:30"]  # 03:30, then 02:30 in Berlin


def test_a_time_that_comes_twice_counts_once() -> None:
    assert times("30 2 * * *", "2026-10-24T12:00") == ["10-25 00:30", "10-26 01:30", "10-27 01:30"]


@pytest.mark.parametrize("cron", ["0 * * * *", "0 */1 * * *"])
def test_what_comes_each_hour_comes_in_both_hours(cron: str) -> None:
    assert times(cron, "2026-10-24T23:30", 4) == ["10-25 00:00", "10-25 01:00", "10-25 02:00", "10-25 03:00"]


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
