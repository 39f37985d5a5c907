"""One operator at a time: who gets the locks of hosts, what the other is told, when they are free again. The lock's script runs here."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gestalt import shell
from gestalt.bootstrap.alone import HOLD, Hold, alone
from gestalt.bootstrap.hosts_file import HostSettings
from gestalt.bootstrap.plan import Action
from gestalt.bootstrap.ssh import Remote
from gestalt.errors import GestaltError, Kind
from tests.unit.gestalt.bootstrap.test_bootstrap_plan import site
from tests.unit.gestalt.bootstrap.test_bootstrap_run import Silence, bootstrap, until


class Here(Remote):
    """A host whose /run is a folder of this machine."""

    def __init__(self, host: HostSettings, run: Path, order: list[str]) -> None:
        super().__init__(host, (), is_root=False)
        self._run = run
        self._order = order

    async def start(self, *argv: str) -> Process:
        self._order.append(self.host.name)
        quick = HOLD.replace("/run/", f"{self._run}/").replace("--timeout 3", "--timeout 0.2").replace("-t 10", "-t 0.1")
        return await shell.spawn([quick if word == HOLD else word for word in argv], stdin=PIPE, stdout=PIPE, stderr=PIPE)


def hosts_of(*numbers: int) -> list[HostSettings]:
    return [site(count=4).hosts[number - 1] for number in numbers]


def remotes_in(folder: Path, hosts: Sequence[HostSettings], order: list[str] | None = None) -> Mapping[str, Remote]:
    for host in hosts:
        (folder / host.name).mkdir(exist_ok=True)
    return {host.name: Here(host, folder / host.name, [] if order is None else order) for host in hosts}


async def is_free(folder: Path, name: str) -> bool:
    return (await shell.run(("flock", "--nonblock", str(folder / name / "gestalt-bootstrap.operator"), "true"), limit=5)).ok


async def test_the_second_operator_is_told_who_the_first_is_whatever_order_his_file_has(tmp_path: Path) -> None:
    mine, order = hosts_of(1, 2, 3), list[str]()
    async with alone(mine, remotes_in(tmp_path, mine), "ann on desk", 4) as taken:
        assert all(isinstance(hold, Hold) and not hold.is_lost for hold in taken.values())
        with pytest.raises(GestaltError, match="another operator bootstraps these hosts; nothing was changed on any") as caught:
            async with alone(mine[::-1], remotes_in(tmp_path, mine, order), "bob on desk", 4):
                pytest.fail("two have the locks")
    assert caught.value.kind is Kind.CONFLICT
    assert order == ["h1"]  # he asked no other
    ((name, problem),) = [(detail.field, detail.problem) for detail in caught.value.details]
    assert (name, problem.partition(" (when that machine is gone for good, end what holds it there: kill ")[0]) == (
        "h1",
        "ann on desk is at work there",
    )


async def test_who_is_refused_keeps_no_lock_and_all_are_free_afterwards(tmp_path: Path) -> None:
    first, second = hosts_of(2, 4), hosts_of(4, 3, 1)
    async with alone(first, remotes_in(tmp_path, first), "ann", 4):
        with pytest.raises(GestaltError) as caught:
            async with alone(second, remotes_in(tmp_path, second), "bob", 4):
                pytest.fail("two have the lock of h4")
        assert [detail.field for detail in caught.value.details] == ["h4"]
        assert [await is_free(tmp_path, f"h{number}") for number in (1, 2, 3, 4)] == [True, False, True, False]
    assert [await is_free(tmp_path, f"h{number}") for number in (1, 2, 3, 4)] == [True] * 4
    async with alone(second, remotes_in(tmp_path, second), "bob", 4) as taken:
        assert set(taken) == {"h1", "h3", "h4"}
    assert (tmp_path / "h1/gestalt-bootstrap.operator").stat().st_mode & 0o777 == 0o600


async def test_a_lock_ends_with_its_connection_and_nothing_more_is_done_under_a_lost_one(tmp_path: Path) -> None:
    hosts = site()
    remotes = remotes_in(tmp_path, hosts.hosts)
    async with alone(hosts.hosts, remotes, "ann", 4) as taken:
        holds = {name: hold for name, hold in taken.items() if isinstance(hold, Hold)}
        run, asked = bootstrap(hosts, until(hosts, Action.START_NODE), lambda host, argv, stdin: (0, ""))
        run.holds = holds
        lost = holds["h2"].process
        assert lost is not None
        shell.kill_group(lost)
        await lost.wait()
        assert await is_free(tmp_path, "h2")
        outcomes = await run.carry_out(Silence())
    failed = {outcome.step.host: outcome.error.message for outcome in outcomes if outcome.error}
    assert failed == {"h2": "the connection that held the lock there was lost"}
    assert {host for host, argv in asked if argv[0] == "systemctl"} == {"h1", "h3", "h4"}


async def test_one_machine_under_two_names_is_not_another_operator(tmp_path: Path) -> None:
    """The plan says so."""
    both = hosts_of(1, 2)
    (tmp_path / "same").mkdir()
    async with alone(both, {host.name: Here(host, tmp_path / "same", []) for host in both}, "ann", 4) as taken:
        assert [isinstance(hold, Hold) and hold.is_lost for hold in taken.values()] == [False, False]


async def test_a_host_that_cannot_give_a_lock_is_told_with_its_words(tmp_path: Path) -> None:
    both = hosts_of(1, 2)
    remotes = remotes_in(tmp_path, both)
    (tmp_path / "h1").rmdir()
    async with alone(both, remotes, "ann", 4) as taken:
        error = taken["h1"]
        assert isinstance(error, GestaltError)
        assert error.kind is Kind.UNAVAILABLE
        assert error.message.startswith("a lock cannot be had there: ")
        assert "No such file or directory" in error.message
        assert isinstance(taken["h2"], Hold)


async def test_who_holds_a_lock_is_written_to_so_that_a_lost_machine_is_noticed(tmp_path: Path) -> None:
    (host,) = hosts_of(1)
    process = await remotes_in(tmp_path, [host])["h1"].start("bash", "-c", HOLD, "bash", "ann")
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(10):
        assert [await process.stdout.readline() for _ in range(3)] == [b"held\n", b"\n", b"\n"]
        process.stdin.close()
        await process.wait()
    assert await is_free(tmp_path, "h1")
