"""The state machine of checks as pure functions, and the runner against drivers of the test."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt.agent.checks import CheckRunner, CheckState, Verdict, installed_driver, judge, next_run, verdict
from gestalt.model import CheckStatus, Health
from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.plugin.runtime import AttemptStatus, DriverUnavailable
from gestalt.spec.schema import Check

GOOD = CheckResult(True, "good")
BAD = CheckResult(False, "bad")
UNKNOWN, HEALTHY, UNHEALTHY = Health.UNKNOWN, Health.HEALTHY, Health.UNHEALTHY


def make(name: str = "c", **fields: Any) -> Check:
    """A check; the copy lets a test go below the shortest interval that a description may have."""
    return Check(name=name, kind="http", grace=0.0, interval=1.0, timeout=1.0).model_copy(update=fields)


def replay(check: Check, results: str, *, every: float = 1.0) -> list[Health]:
    """Judge a row of results (`+` and `-`), one each `every` seconds from 0; return the health after each."""
    state = CheckState(0.0)
    healths = []
    for number, sign in enumerate(results):
        state = judge(state, check, GOOD if sign == "+" else BAD, number * every)
        healths.append(state.health)
    return healths


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("+", "h"),
        ("-", "?"),
        ("---", "??u"),
        ("--+", "??h"),
        ("+--", "hhh"),
        ("+---", "hhhu"),
        ("+--+--", "hhhhhh"),
        ("+---+", "hhhuh"),
        ("---+---", "??uhhhu"),
    ],
)
def test_thresholds(results: str, expected: str) -> None:
    letters = {"?": UNKNOWN, "h": HEALTHY, "u": UNHEALTHY}
    assert replay(make(failures=3), results) == [letters[letter] for letter in expected]


def test_successes_in_a_row() -> None:
    assert replay(make(successes=2), "+-+-++") == [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, HEALTHY]
    assert replay(make(successes=2, failures=1), "++-+++") == [UNKNOWN, HEALTHY, UNHEALTHY, UNHEALTHY, HEALTHY, HEALTHY]


def test_grace_holds_until_the_first_health_only() -> None:
    check = make(failures=1, grace=10.0)
    assert replay(check, "-" * 12) == [UNKNOWN] * 10 + [UNHEALTHY] * 2
    assert replay(check, "--+-") == [UNKNOWN, UNKNOWN, HEALTHY, UNHEALTHY]


def test_exhaustively_against_the_definition() -> None:
    """Every row of 8 results with every threshold: health is what the last long enough row of equal results says."""
    for failures, successes in itertools.product((1, 2, 3), repeat=2):
        check = make(failures=failures, successes=successes)
        for signs in itertools.product("+-", repeat=8):
            row = "".join(signs)
            expected = UNKNOWN
            for end in range(1, 9):
                if row[:end].endswith("+" * successes):
                    expected = HEALTHY
                elif row[:end].endswith("-" * failures):
                    expected = UNHEALTHY
            assert replay(check, row)[-1] is expected, f"{row} with {failures} failures, {successes} successes"


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=40),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0, 20),
)
def test_judge_never_goes_back_to_unknown_and_never_condemns_in_grace(
    results: list[tuple[bool, float]], failures: int, successes: int, grace: float
) -> None:
    check = make(failures=failures, successes=successes, grace=grace)
    state, now, was_healthy = CheckState(0.0), 0.0, False
    for ok, step in results:
        now += step
        before, state = state, judge(state, check, GOOD if ok else BAD, now)
        assert min(state.failures, state.successes) == 0
        assert not (before.health is not UNKNOWN and state.health is UNKNOWN)
        assert not (before.health is HEALTHY and ok and state.health is not HEALTHY)
        was_healthy |= state.health is HEALTHY
        if now < grace and not was_healthy:
            assert state.health is UNKNOWN
    assert judge(state, check, GOOD, now) == judge(state, check, GOOD, now)


def test_output_is_that_of_the_first_success_and_of_the_last_failure() -> None:
    check, state = make(), CheckState(0.0)
    for ok, text, expected in [(True, "a", "a"), (True, "b", "a"), (False, "c", "c"), (False, "d", "d"), (True, "e", "e")]:
        state = judge(state, check, CheckResult(ok, text), 0.0)
        assert state.output == expected


ALL = (UNKNOWN, HEALTHY, UNHEALTHY)


@pytest.mark.parametrize("purposes", list(itertools.product(("liveness", "readiness", "both"), repeat=2)))
@pytest.mark.parametrize("healths", list(itertools.product(ALL, repeat=2)))
def test_verdict_exhaustively(purposes: tuple[str, str], healths: tuple[Health, Health]) -> None:
    checks = [make(f"c{number}", purpose=purpose) for number, purpose in enumerate(purposes)]
    states = {check.name: CheckState(0.0, health, output="bad") for check, health in zip(checks, healths, strict=True)}
    seen = verdict(checks, states)
    pairs = list(zip(purposes, healths, strict=True))
    condemned = [number for number, (purpose, health) in enumerate(pairs) if purpose != "readiness" and health is UNHEALTHY]
    assert (seen.restart_reason is not None) == bool(condemned)
    if condemned:
        assert seen.restart_reason == f"check c{condemned[0]} failed 3 times in a row: bad"
    gates_open = all(health is HEALTHY for purpose, health in pairs if purpose != "liveness")
    assert seen.ready == (gates_open and not condemned)
    assert (seen.health is HEALTHY) == (set(healths) == {HEALTHY})
    assert (seen.health is UNHEALTHY) == (UNHEALTHY in healths)


def test_without_checks_all_is_well() -> None:
    assert verdict((), {}) == Verdict(HEALTHY, True, None)


@given(
    st.floats(0.01, 3600),
    st.tuples(st.floats(0, 1e6), st.floats(0, 1, exclude_max=True), st.floats(0, 100)),
    st.tuples(st.sampled_from(ALL), st.integers(0, 2)),
)
def test_next_run_is_soon_and_on_the_grid(interval: float, times: tuple[float, float, float], seen: tuple[Health, int]) -> None:
    check = make(interval=interval, grace=10.0)
    now, phase, retry = times
    health, successes = seen
    at = next_run(check, CheckState(now - 5, health, successes=successes), now, phase, retry)
    assert now <= at <= now + interval * 1.000001 + 1e-6
    if health is UNKNOWN and not successes:
        assert at == now + min(retry, interval)
    else:
        beats = (at - phase * interval) / interval
        assert beats == pytest.approx(round(beats), abs=1e-3)


def test_after_grace_the_interval_holds_for_failures_that_count() -> None:
    check = make(grace=10.0, interval=5.0)
    assert next_run(check, CheckState(0.0), 9.0, 0.0, 0.02) == 9.02
    assert next_run(check, CheckState(0.0), 11.0, 0.0, 0.02) == 15.0


# -- the runner ------------------------------------------------------------------------------------------------------


class Scripted(CheckDriver):
    """Answers what the test says and counts what runs."""

    name = "scripted"

    def __init__(self, answer: Callable[[int], CheckResult | Exception | None]) -> None:
        self._answer = answer
        self.runs = 0
        self.at_once = 0
        self.most_at_once = 0

    async def run(self, check: Check, target: CheckTarget) -> CheckResult:
        self.runs += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = self._answer(self.runs)
            if answer is None:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            if isinstance(answer, Exception):
                raise answer
            assert answer is not None
            return answer
        finally:
            self.at_once -= 1


async def _no_exec(argv: Sequence[str], limit: float) -> tuple[int, bytes]:
    raise AssertionError


async def _no_inspect() -> AttemptStatus | None:
    raise AssertionError


@dataclass
class Reports:
    """What a runner reported, and a way to wait for it."""

    seen: list[tuple[tuple[CheckStatus, ...], Verdict]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, statuses: tuple[CheckStatus, ...], health: Health, ready: bool, restart_reason: str | None) -> None:
        self.seen.append((statuses, Verdict(health, ready, restart_reason)))
        self.changed.set()

    async def until(self, wanted: Callable[[Verdict], bool]) -> None:
        try:
            async with asyncio.timeout(5):
                while not (self.seen and wanted(self.seen[-1][1])):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pytest.fail(f"reported only {self.seen}")


def runner(driver: CheckDriver, reports: Reports, *checks: Check, slots: int = 4, **options: Any) -> CheckRunner:
    target = CheckTarget("127.0.0.1", {"web": 1}, _no_exec, _no_inspect)
    return CheckRunner("web-1-1", checks, target, reports, exec_slots=asyncio.Semaphore(slots), driver=lambda kind: driver, **options)


async def test_runner_without_checks_reports_within_start() -> None:
    reports = Reports()
    running = runner(Scripted(lambda run: GOOD), reports)
    running.start()
    assert reports.seen == [((), Verdict(HEALTHY, True, None))]
    await running.stop()


async def test_runner_reports_changes_only() -> None:
    driver, reports = Scripted(lambda run: CheckResult(True, f"run {run}")), Reports()
    enough = asyncio.Event()
    answer = driver._answer

    def counting(run: int) -> CheckResult | Exception | None:
        if run >= 6:
            enough.set()
        return answer(run)

    driver._answer = counting
    running = runner(driver, reports, make(interval=0.01))
    running.start()
    await asyncio.wait_for(enough.wait(), 5)
    await running.stop()
    assert [seen for _, seen in reports.seen] == [Verdict(UNKNOWN, False, None), Verdict(HEALTHY, True, None)]
    assert reports.seen[-1][0] == (CheckStatus("c", HEALTHY, "run 1"),)


async def test_runner_finds_a_late_starter_quickly_despite_a_long_interval() -> None:
    driver, reports = Scripted(lambda run: GOOD if run > 5 else BAD), Reports()
    running = runner(driver, reports, make(interval=3600.0, grace=60.0))
    running.start()
    begun = asyncio.get_running_loop().time()
    await reports.until(lambda seen: seen.ready)
    assert asyncio.get_running_loop().time() - begun < 1
    await running.stop()
    assert len(reports.seen) == 3  # unknown, bad, good


async def test_runner_asks_for_a_restart_after_failures() -> None:
    driver, reports = Scripted(lambda run: GOOD if run == 1 else BAD), Reports()
    running = runner(driver, reports, make(interval=0.01, failures=2))
    running.start()
    await reports.until(lambda seen: seen.restart_reason == "check c failed 2 times in a row: bad")
    await running.stop()


async def test_runner_bounds_a_run_that_hangs() -> None:
    driver, reports = Scripted(lambda run: None), Reports()
    running = runner(driver, reports, make(interval=0.05, timeout=0.02, failures=2))
    running.start()
    await reports.until(lambda seen: seen.health is UNHEALTHY)
    await running.stop()
    assert reports.seen[-1][0][0].output == "did not answer within 0.02 s"
    assert driver.most_at_once == 1
    assert driver.at_once == 0


@pytest.mark.parametrize("error", [DriverUnavailable("Docker does not answer"), RuntimeError("a bug"), TimeoutError("inner")])
async def test_a_driver_that_cannot_tell_changes_no_health(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    second_round = asyncio.Event()

    def answer(run: int) -> CheckResult | Exception | None:
        if run > 20:
            second_round.set()
        return GOOD if run == 1 else error

    driver, reports = Scripted(answer), Reports()
    running = runner(driver, reports, make(interval=0.005, failures=1))
    running.start()
    await asyncio.wait_for(second_round.wait(), 5)
    await running.stop()
    assert reports.seen[-1][1] == Verdict(HEALTHY, True, None)


async def test_a_driver_that_never_could_tell_says_so() -> None:
    reports = Reports()
    running = runner(Scripted(lambda run: DriverUnavailable("Docker does not answer")), reports, make(interval=0.01, failures=1))
    running.start()
    async with asyncio.timeout(5):
        while not reports.seen[-1][0][0].output:
            reports.changed.clear()
            await reports.changed.wait()
    await running.stop()
    assert reports.seen[-1][0][0] == CheckStatus("c", UNKNOWN, "cannot tell: Docker does not answer")


async def test_stop_ends_everything_and_reports_nothing_more() -> None:
    both = asyncio.Event()

    def hang(run: int) -> None:
        if run == 2:
            both.set()

    driver, reports = Scripted(hang), Reports()
    running = runner(driver, reports, make("a", timeout=60.0), make("b", timeout=60.0))
    running.start()
    await asyncio.wait_for(both.wait(), 5)
    assert driver.at_once == 2
    await running.stop()
    await running.stop()
    assert driver.at_once == 0
    assert len(reports.seen) == 1


async def test_exec_runs_are_bounded_across_checks() -> None:
    driver, reports = Scripted(lambda run: GOOD), Reports()
    checks = [make(f"c{number}", kind="exec", command=("/bin/true",), interval=0.01) for number in range(8)]
    running = runner(driver, reports, *checks, slots=2)
    running.start()
    await reports.until(lambda seen: seen.ready)
    await running.stop()
    assert driver.most_at_once <= 2


async def test_an_adopted_attempt_stays_ready_until_its_checks_say_otherwise() -> None:
    driver, reports = Scripted(lambda run: BAD), Reports()
    known = (CheckStatus("c", HEALTHY, "HTTP 200"),)
    running = runner(driver, reports, make(interval=0.01, failures=2, grace=60.0), age=1000.0, known=known)
    running.start()
    assert reports.seen == [(known, Verdict(HEALTHY, True, None))]
    await reports.until(lambda seen: not seen.ready)
    await running.stop()
    assert driver.runs >= 2


async def test_a_report_that_raises_is_told(caplog: pytest.LogCaptureFixture) -> None:
    raised = asyncio.Event()

    def broken(statuses: tuple[CheckStatus, ...], health: Health, ready: bool, restart_reason: str | None) -> None:
        if ready:
            raised.set()
            raise RuntimeError("broken listener")

    target = CheckTarget("127.0.0.1", {}, _no_exec, _no_inspect)
    running = CheckRunner(
        "web-1-1", (make(),), target, broken, exec_slots=asyncio.Semaphore(1), driver=lambda kind: Scripted(lambda run: GOOD)
    )
    running.start()
    await asyncio.wait_for(raised.wait(), 5)
    await running.stop()
    assert "no more results" in caplog.text


def test_installed_drivers_are_shared() -> None:
    assert installed_driver("tcp") is installed_driver("tcp")
