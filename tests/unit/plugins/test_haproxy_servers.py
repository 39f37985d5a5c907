"""From the servers that HAProxy has to those that it should have: the commands, and what they lead to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt.plugin.loadbalancer import ServerLoad
from gestalt.plugins.loadbalancer.haproxy_routes import ServerEntry, ServerState
from gestalt.plugins.loadbalancer.haproxy_servers import (
    Key,
    adjustments,
    dead_ends,
    is_listening,
    is_right,
    merge_load,
    parse_info,
    parse_load,
    parse_servers,
)
from gestalt.plugins.loadbalancer.haproxy_socket import Processes, batches, parse_processes

READY, DRAIN, MAINT = ServerState.READY, ServerState.DRAIN, ServerState.MAINT
STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_port srvrecord
3 be 1 a 127.0.0.1 2 0 1 3001 -
3 be 2 b 127.0.0.1 0 5 1 3002 -
3 be 3 c fd00:0::3 2 8 1 3003 -
3 be 4 d 127.0.0.1 2 4 1 3004 -

"""


def entry(port: int = 3000, state: ServerState = READY, address: str = "127.0.0.1") -> ServerEntry:
    return ServerEntry(address, port, state)


def test_reads_the_states_of_servers() -> None:
    assert parse_servers(STATE) == {
        ("be", "a"): entry(3001),
        ("be", "b"): entry(3002, MAINT),
        ("be", "c"): entry(3003, DRAIN, "fd00::3"),
        ("be", "d"): entry(3004),  # disabled in the file, made ready since
    }


@pytest.mark.parametrize("text", ["", "Unknown command", "1\nnothing"])
def test_garbage_is_told(text: str) -> None:
    for parse in (parse_servers, parse_info, parse_processes):
        with pytest.raises(ValueError, match="this is not"):
            parse(text)


def test_reads_who_answers() -> None:
    worker = parse_info("Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 42\ndescription: gestalt 0123456789abcdef\n")
    assert (worker.pid, worker.version, worker.structure) == (42, (2, 6, 12), "0123456789abcdef")


@pytest.mark.parametrize(
    ("said", "listens"),
    [
        ("Pid: 9\nStopping: 0\nListeners: 3\nUnstoppable Jobs: 1\n", True),
        ("Pid: 9\nStopping: 1\nListeners: 3\nUnstoppable Jobs: 1\n", True),  # it was told, and did not do it yet
        ("Pid: 9\nStopping: 1\nListeners: 1\nUnstoppable Jobs: 1\n", False),  # that is its master's
        ("Can't find the target PID matching the prefix '@!9'.\n", False),
        ("", False),
    ],
)
def test_reads_whether_a_replaced_worker_takes_connections(said: str, listens: bool) -> None:
    assert is_listening(said) == listens


NEW_PROCESSES = """#<PID> <type> <reloads> <uptime> <version>
10 master 5 [failed: 1] 0d00h02m07s 2.6
# workers
11 worker 1 0d00h02m07s 2.6
# old workers
9 worker 3 0d00h02m07s 2.6
# programs

"""
OLD_PROCESSES = """#<PID> <type> <relative PID> <reloads> <uptime> <version>
10 master 0 5 0d00h02m07s 2.4.22
# workers
11 worker 1 0 0d00h02m07s 2.4.22
"""


def test_reads_the_processes_of_old_and_new_versions() -> None:
    assert parse_processes(NEW_PROCESSES) == Processes(10, 5, 1, (11,), (9,))
    assert parse_processes(OLD_PROCESSES) == Processes(10, 5, 0, (11,), ())


def test_load_is_summed_over_services_and_workers() -> None:
    stat = "# pxname,svname,qcur,scur,status\nbe1,a,1,2,no check\nbe2,a,0,3,DRAIN\nbe1,b,,0,MAINT\n"
    assert parse_load(stat) == {"a": ServerLoad(6, "no check", serving=True), "b": ServerLoad(0, "MAINT")}
    assert merge_load([parse_load(stat), {"a": ServerLoad(4, "old"), "c": ServerLoad(1, "old")}]) == {
        "a": ServerLoad(10, "no check", serving=True), "b": ServerLoad(0, "MAINT"), "c": ServerLoad(1, "old"),
    }  # fmt: skip


def test_nothing_to_do_is_no_command() -> None:
    assert adjustments(parse_servers(STATE), parse_servers(STATE)) == []


def test_capacity_is_added_before_any_is_taken_away() -> None:
    wanted = {("be", "new"): entry(1), ("be", "old"): entry(2, DRAIN)}
    actual = {("be", "old"): entry(2), ("be", "gone"): entry(3)}
    assert adjustments(wanted, actual) == [
        "add server be/new 127.0.0.1:1",
        "set server be/new state ready",
        "set server be/old state drain",
        "set server be/gone state maint",
        "del server be/gone",
    ]


def test_a_new_address_and_ipv6() -> None:
    assert adjustments({("be", "a"): entry(5, address="fd00::1")}, {("be", "a"): entry(4)}) == ["set server be/a addr fd00::1 port 5"]
    assert adjustments({("be", "a"): entry(5, MAINT, "fd00::1")}, {}) == ["add server be/a [fd00::1]:5"]


def carry_out(commands: list[str], servers: dict[Key, ServerEntry], busy: set[str]) -> dict[Key, ServerEntry]:
    """Do what HAProxy does; it refuses to remove servers that are busy or not in maintenance."""
    result = dict(servers)
    for command in commands:
        verb, _, name, *words = command.split()
        backend, server = name.split("/")
        key = (backend, server)
        if verb == "add" and key not in result:
            address, port = words[0].rsplit(":", 1)
            result[key] = ServerEntry(address, int(port), MAINT)
        elif verb == "del" and result[key].state is MAINT and server not in busy:
            del result[key]
        elif verb == "set" and words[0] == "state":
            result[key] = ServerEntry(result[key].address, result[key].port, ServerState(words[1]))
        elif verb == "set":
            result[key] = ServerEntry(words[1], int(words[3]), result[key].state)
    return result


fleets = st.dictionaries(
    st.tuples(st.sampled_from(["be1", "be2"]), st.sampled_from("abcdef")),
    st.builds(entry, st.integers(1, 3), st.sampled_from(ServerState)),
)


@given(wanted=fleets, actual=fleets, busy=st.sets(st.sampled_from("abcdef")))
def test_commands_always_lead_from_any_fleet_to_any_other(
    wanted: dict[Key, ServerEntry], actual: dict[Key, ServerEntry], busy: set[str]
) -> None:
    after = carry_out(adjustments(wanted, actual), actual, busy)
    assert is_right(wanted, after)
    assert carry_out(adjustments(wanted, after), after, set()) == wanted


@pytest.mark.parametrize("state", [READY, DRAIN])
def test_a_leftover_that_gets_requests_is_not_right(state: ServerState) -> None:
    assert not is_right({}, {("be", "a"): entry(1, state)})
    assert is_right({}, {("be", "a"): entry(1, MAINT)})


def test_only_what_nobody_stands_behind_is_a_dead_end() -> None:
    def lost(port: int) -> ServerEntry:
        return ServerEntry("10.0.0.1", port, MAINT, lost=True)

    wanted = {("be", "lost"): lost(1), ("be", "moved"): entry(9), ("be", "sick"): entry(15, MAINT), ("be", "leaving"): entry(16, DRAIN)}
    actual = {key: entry(number, READY) for number, key in enumerate([*wanted, ("be", "gone"), ("be", "reused"), ("old", "version")], 1)}
    actual[("be", "reused")] = entry(9)
    actual[("be", "bare")] = ServerEntry("-", 0, MAINT)
    assert dead_ends(wanted, {"be"}, actual) == {("be", "lost"): ("127.0.0.1", 1), ("be", "gone"): ("127.0.0.1", 5)}


def test_batches_fit_into_the_buffer_and_lose_nothing() -> None:
    commands = [f"set server be/{number} state ready" for number in range(2000)]
    cut = batches(commands)
    assert [command for batch in cut for command in batch] == commands
    assert all(len("; ".join(batch)) <= 8000 for batch in cut)
