"""A run on machines that are only said to be there: what is asked of them, in which order, and what ends it."""

from __future__ import annotations

from collections.abc import Callable

from gestalt import shell
from gestalt.bootstrap.actions import ASK, Actions
from gestalt.bootstrap.hosts_file import HostSettings, HostsFile
from gestalt.bootstrap.plan import Action, Step
from gestalt.bootstrap.run import Bootstrap, Outcome
from gestalt.bootstrap.ssh import Remote
from tests.unit.gestalt.bootstrap.test_bootstrap_plan import PACKAGES, World, bare, carried_out, plan_of, site

Answer = Callable[[str, tuple[str, ...], bytes], tuple[int, str]]


class Machine(Remote):
    """Notes what it is asked, and answers it as a test wants: exit code, and what is said."""

    def __init__(self, host: HostSettings, answer: Answer, asked: list[tuple[str, tuple[str, ...]]]) -> None:
        super().__init__(host, (), is_root=True)
        self._answer = answer
        self._asked = asked

    async def run(self, *argv: str, stdin: bytes = b"", limit: float = 60.0) -> shell.Completed:
        self._asked.append((self.host.name, argv))
        code, said = self._answer(self.host.name, argv, stdin)
        return shell.Completed(argv, code, said.encode(), b"" if code == 0 else said.encode())


class Silence:
    """An audience that does not care."""

    def looked(self, host: str) -> None: ...
    def begun(self, step: Step) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...


def bootstrap(hosts: HostsFile, world: World, answer: Answer) -> tuple[Bootstrap, list[tuple[str, tuple[str, ...]]]]:
    asked: list[tuple[str, tuple[str, ...]]] = []
    remotes = {host.name: Machine(host, answer, asked) for host in hosts.hosts}
    plan = plan_of(hosts, world)
    return Bootstrap(hosts, PACKAGES, plan, Actions(hosts, PACKAGES, world, remotes, plan.first, 0.0), 4), asked


def until(hosts: HostsFile, action: Action) -> World:
    """Return machines on which all phases before one are done."""
    world = bare(hosts)
    return carried_out(hosts, world, [step for step in plan_of(hosts, world).steps if step.action < action])


async def test_nothing_follows_while_a_zookeeper_server_is_silent_and_it_is_named() -> None:
    """Its unit may be said to run: it is started again and again."""
    hosts = site()

    def answer(host: str, argv: tuple[str, ...], stdin: bytes) -> tuple[int, str]:
        return (1, "Connection refused") if ASK in argv and host == "h2" else (0, "")

    run, asked = bootstrap(hosts, until(hosts, Action.START_NODE), answer)
    (outcome,) = await run.carry_out(Silence())
    assert (outcome.step.host, outcome.step.action) == ("h2", Action.ZOOKEEPER)
    assert outcome.error is not None
    assert "does not serve on 10.0.0.2:2181, within 0 s; the last that was heard: Connection refused" in outcome.error.message
    assert {(host, argv[-2:]) for host, argv in asked} == {(f"h{number}", (f"10.0.0.{number}", "2181")) for number in (1, 2, 3)}


async def test_servers_are_asked_when_the_firewall_lets_them_reach_each_other() -> None:
    hosts = site()
    run, asked = bootstrap(hosts, until(hosts, Action.FIREWALL), lambda host, argv, stdin: (ASK in argv, "not currently serving"))
    outcomes = await run.carry_out(Silence())
    assert {(outcome.step.action, outcome.error is None) for outcome in outcomes} == {(Action.FIREWALL, True), (Action.ZOOKEEPER, False)}
    assert [ASK in argv for _, argv in asked] == [False] * 4 + [True] * 3


async def test_what_is_left_follows_when_all_servers_serve() -> None:
    hosts = site()
    run, asked = bootstrap(hosts, until(hosts, Action.START_NODE), lambda host, argv, stdin: (0, ""))
    outcomes = await run.carry_out(Silence())
    assert {outcome.step.action for outcome in outcomes} == {Action.START_NODE}
    assert [ASK in argv for _, argv in asked] == [True] * 3 + [False] * 4
    finished = carried_out(hosts, until(hosts, Action.START_NODE), run.plan.pending)
    run, asked = bootstrap(hosts, finished, lambda host, argv, stdin: (0, ""))
    assert (await run.carry_out(Silence()), asked) == ([], [])
