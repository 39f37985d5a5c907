"""A run on machines that are only said to be there: what is asked of them, in which order, and what ends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gestalt import shell
from gestalt.bootstrap.actions import ASK, TOKENS, Actions
from gestalt.bootstrap.hosts_file import HostSettings, HostsFile
from gestalt.bootstrap.plan import Action, Step
from gestalt.bootstrap.run import Bootstrap, Outcome
from gestalt.bootstrap.ssh import Remote, unusable
from gestalt.errors import GestaltError, Kind
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


USED = "error: this token was used already: one token admits one machine"


@pytest.mark.parametrize(
    ("refusals", "tokens", "error"), [([], 1, ""), ([USED], 2, ""), ([USED, USED], 2, USED), (["no way"], 1, "no way")]
)
async def test_a_token_of_another_machine_or_cluster_is_thrown_away_once(refusals: list[str], tokens: int, error: str) -> None:
    hosts = site(count=2)
    left = list(refusals)

    def answer(host: str, argv: tuple[str, ...], stdin: bytes) -> tuple[int, str]:
        if argv[0] == "sed":
            return 0, "c-1"
        return (1, left.pop(0)) if "join" in argv and left else (0, "")

    run, asked = bootstrap(hosts, until(hosts, Action.JOIN_NODE), answer)
    outcome = (await run.carry_out(Silence()))[0]
    assert (outcome.step.action, error in (outcome.error.message if outcome.error else "")) == (Action.JOIN_NODE, True)
    assert (outcome.error is None) == (not error)
    names = [argv[4] for host, argv in asked if host == "h1" and TOKENS in argv]
    assert names == ["c-1.h2.node"] * tokens
    removed = [argv[-1] for host, argv in asked if host == "h1" and argv[0] == "rm"]
    assert removed == ["/run/gestalt-bootstrap/c-1.h2.node"] * (tokens if not error else tokens - 1)


async def test_without_the_cluster_of_the_first_host_nobody_joins() -> None:
    hosts = site(count=2)
    run, asked = bootstrap(hosts, until(hosts, Action.JOIN_NODE), lambda host, argv, stdin: (0, ""))
    outcome = (await run.carry_out(Silence()))[0]
    assert outcome.error is not None
    assert "/etc/gestalt/coordinator.yaml of h1 names no cluster" in outcome.error.message
    assert not [argv for _, argv in asked if "join" in argv]


@pytest.mark.parametrize(("action", "word"), [(Action.FOUND, "init"), (Action.JOIN_COORDINATOR, "join"), (Action.JOIN_NODE, "join")])
async def test_of_two_operators_one_waits_where_a_machine_becomes_a_member(action: Action, word: str) -> None:
    hosts = site()
    run, asked = bootstrap(hosts, until(hosts, action), lambda host, argv, stdin: (0, "c-1"))
    assert [outcome.error for outcome in await run.carry_out(Silence())] == [None] * len(run.plan.pending)
    commands = [argv for _, argv in asked if word in argv]
    assert commands
    assert {argv[:2] for argv in commands} == {("flock", "/run/gestalt-bootstrap.lock")}


async def test_a_connection_that_is_lost_at_the_end_is_a_failure_when_something_was_changed() -> None:
    """The exit code of UNAVAILABLE says that nothing was."""
    hosts = site()

    def answer(host: str, argv: tuple[str, ...], stdin: bytes) -> tuple[int, str]:
        if "nodes" in argv:
            raise unusable(hosts.hosts[0], "Connection closed by 10.0.0.1 port 22")
        return 0, ""

    run, _ = bootstrap(hosts, until(hosts, Action.START_NODE), answer)
    outcomes = await run.carry_out(Silence())
    kinds = []
    for changed in (outcomes, []):
        with pytest.raises(GestaltError, match="Connection closed by") as caught:
            await run.until_ready(changed)
        kinds.append(caught.value.kind)
    assert kinds == [Kind.FAILED, Kind.UNAVAILABLE]


async def test_a_file_that_went_after_the_plan_was_made_is_an_error_of_its_step() -> None:
    hosts = site(zookeeper={"archive": "/nonexistent/apache-zookeeper-3.8.4-bin.tar.gz"})
    run, _ = bootstrap(hosts, until(hosts, Action.ZOOKEEPER), lambda host, argv, stdin: (0, ""))
    outcomes = await run.carry_out(Silence())
    assert {outcome.step.action for outcome in outcomes} == {Action.ZOOKEEPER}
    for outcome in outcomes:
        assert outcome.error is not None
        assert outcome.error.message == "/nonexistent/apache-zookeeper-3.8.4-bin.tar.gz cannot be read: No such file or directory"


@pytest.mark.parametrize("said", ["Welcome to h1", "", "[]", '{"coordinators": []}', '{"nodes": [{"name": "h1"}]}', '{"nodes": [{"na'])
async def test_an_answer_that_lists_no_nodes_is_told(said: str) -> None:
    hosts = site()
    run, _ = bootstrap(hosts, until(hosts, Action.START_NODE), lambda host, argv, stdin: (0, said))
    with pytest.raises(GestaltError, match="did not list nodes, but said") as caught:
        await run.until_ready([])
    assert caught.value.kind is Kind.FAILED
    assert (said or "nothing") in caught.value.message
