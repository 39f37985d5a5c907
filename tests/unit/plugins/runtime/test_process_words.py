"""The pure parts of the process runtime: what records mean, what a launch asks for, what limits come to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gestalt.config import AgentSettings, TlsSettings
from gestalt.model import PortBinding
from gestalt.plugin.runtime import AttemptKey, AttemptState, ExecRequest, Launch
from gestalt.plugins.runtime.process_cgroup import CgroupTree, cpu_shares, cpu_weight
from gestalt.plugins.runtime.process_exec import exec_fields
from gestalt.plugins.runtime.process_records import Ended, Labels, Records, Running, Started, is_left_behind, judge
from gestalt.plugins.runtime.process_request import CAPABILITIES, build_request, capability_numbers, find_user, signal_number
from gestalt.plugins.runtime.process_systemd import unit_properties
from gestalt.spec.schema import AppSpec, Logging, Resources, Security, Stop, Volume

LABELS = Labels("c", "n", "web-1", 2, "/o/w/e/web", "t", "shim")
STARTED = Started(Running(10, "5", "this"), Running(11, "5", "this"), ())
PEM = Path("none.pem")
SETTINGS = AgentSettings(
    node_id="n", node_name="node", cluster_id="c", coordinators=(), tls=TlsSettings(ca=PEM, certificate=PEM, key=PEM), address="10.0.0.7"
)


@pytest.mark.parametrize(
    ("records", "state", "code", "error", "pid"),
    [
        (Records(LABELS, None, None), AttemptState.CREATED, None, "", 0),
        (Records(LABELS, STARTED, None, shim_alive=True), AttemptState.RUNNING, None, "", 11),
        (Records(LABELS, STARTED, Ended(3), shim_alive=True), AttemptState.EXITED, 3, "", 0),
        (Records(LABELS, STARTED, Ended(0)), AttemptState.EXITED, 0, "", 0),
        (Records(LABELS, None, Ended(refused="no")), AttemptState.EXITED, None, "no", 0),
        (Records(LABELS, STARTED, None), AttemptState.EXITED, None, "its supervisor was killed", 0),
    ],
)
def test_records_mean(records: Records, state: AttemptState, code: int | None, error: str, pid: int) -> None:
    status = judge("name", records, "this")
    assert (status.key, status.runtime_id) == (AttemptKey("web-1", 2), "name")
    assert (status.state, status.exit_code, status.pid) == (state, code, pid)
    assert status.error.startswith(error)
    assert bool(status.error) == bool(error)


def test_another_boot_ended_everything_and_left_nothing_behind() -> None:
    records = Records(LABELS, STARTED, None)
    assert judge("name", records, "later").error == "the node was rebooted"
    assert is_left_behind(records, "this")
    assert not is_left_behind(records, "later")
    assert not is_left_behind(Records(LABELS, STARTED, None, shim_alive=True), "this")
    assert not is_left_behind(Records(LABELS, STARTED, Ended(1)), "this")


def launch_of(**sections: object) -> Launch:
    spec = AppSpec(path="/o/w/e/web", runtime="process", command=("/bin/app",)).model_copy(update=sections)
    return Launch(AttemptKey("web-1", 2), spec.path, 4, "t", spec, (PortBinding("web-ui", 0, 3001), PortBinding("api", 0, 3002)))


def test_a_request_holds_command_identity_and_environment() -> None:
    fields = build_request(launch_of(args=("--x", ""), env={"PATH": "/mine"}, workdir="/srv"), SETTINGS)
    assert [value for key, value in fields if key == "arg"] == ["/bin/app", "--x", ""]
    environment = dict(value.split("=", 1) for key, value in fields if key == "env")
    assert (environment["PORT"], environment["PORT_WEB_UI"], environment["PORT_API"]) == ("3001", "3001", "3002")
    assert (environment["GESTALT_NODE"], environment["GESTALT_ADDRESS"], environment["PATH"]) == ("node", "10.0.0.7", "/mine")
    one = dict(fields)
    assert (one["cwd"], one["no_new_privileges"], one["stop_signal"]) == ("/srv", "1", "15")


@pytest.mark.parametrize(
    ("logging", "expected"),
    [
        (Logging(max_size=5000, max_files=4), ("5000", "4")),
        (Logging(max_size=10**9), (str(SETTINGS.process.log_max_size), "3")),
        (Logging(driver="none"), (str(SETTINGS.process.log_max_size), "0")),
    ],
)
def test_logs_are_bounded_by_app_and_node(logging: Logging, expected: tuple[str, str]) -> None:
    one = dict(build_request(launch_of(logging=logging), SETTINGS))
    assert (one["log_max_size"], one["log_max_files"]) == expected


def test_a_command_beside_takes_over_all_but_command_and_place() -> None:
    stored = [("arg", "old"), ("env", "A=1"), ("uid", "7"), ("gid", "8"), ("limit", "nofile 1 2"), ("unit", "x.service"), ("cwd", "/srv")]
    started = Started(Running(10, "5", "this"), Running(11, "5", "this"), ("/cg/a", "/cg/b"))
    fields = exec_fields(stored, started, ExecRequest(("ls", "-l"), tty=True, env={"B": "2"}))
    assert [value for key, value in fields if key == "arg"] == ["ls", "-l"]
    assert [value for key, value in fields if key == "cgroup"] == ["/cg/a", "/cg/b"]
    assert {("env", "A=1"), ("env", "B=2"), ("uid", "7"), ("gid", "8"), ("cwd", "/srv"), ("tty", "1")} <= set(fields)
    assert ("namespace", "/proc/11/ns/mnt") in fields
    assert "unit" not in dict(fields)


def test_names_of_users_signals_and_capabilities() -> None:
    assert find_user("root").home == "/root"
    assert (find_user("root:7").gid, find_user("4242").gid, find_user("4242:5").gid) == (7, 4242, 5)
    assert find_user("").uid == os.geteuid()
    assert [signal_number(name) for name in ("SIGTERM", "TERM", "term", "15")] == [15] * 4
    assert capability_numbers(["NET_BIND_SERVICE", "cap_kill"]) == [10, 5]
    assert CAPABILITIES.index("CHECKPOINT_RESTORE") == 40


@pytest.mark.parametrize(("cores", "shares", "weight"), [(0.0, 2, 1), (0.1, 102, 4), (1.0, 1024, 39), (1e6, 262_144, 10_000)])
def test_cores_as_shares_and_weight(cores: float, shares: int, weight: int) -> None:
    assert cpu_shares(cores) == shares
    assert cpu_weight(shares) == weight


def test_unit_properties() -> None:
    spec = launch_of(
        resources=Resources(memory=10**8, pids=9),
        security=Security(read_only_root=True),
        stop=Stop(grace=7),
        volumes=(Volume(host_path="/a b", target="/a b"), Volume(host_path="/ro", target="/ro", read_only=True)),
    ).spec
    properties = unit_properties(spec, Path("/data/x"))
    assert (properties["MemoryMax"], properties["MemorySwapMax"], properties["TasksMax"]) == ("100000000", "0", "10")
    assert properties["ReadWritePaths"] == '"/data/x" "/a b"'
    assert properties["TimeoutStopSec"] == "12"
    assert "ProtectSystem" not in unit_properties(launch_of().spec, Path("/data/x"))


class TestCgroupVersion2:
    """On a tree that looks like the kernel's; the machine of the tests may have version 1 only."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name in ("cgroup.controllers", "cgroup.procs"):
            (tmp_path / name).write_text("")
        return tmp_path

    def test_one_folder_with_all_limits(self, root: Path) -> None:
        tree = CgroupTree(root)
        assert tree.facts() == {"cgroup": "v2", "limits": "cpu,memory,pids"}
        assert tree.folders("x") == [str(root / "gestalt/x")]
        assert not (root / "gestalt/x").exists()
        tree.create("x", Resources(cpu=1, memory=10**8, pids=7))
        found = {path.name: path.read_text() for path in (root / "gestalt/x").iterdir()}
        assert found == {"memory.max": "100000000", "memory.swap.max": "0", "pids.max": "7", "cpu.weight": "39"}

    def test_nothing_is_written_above_our_own_folder(self, root: Path) -> None:
        CgroupTree(root).create("x", Resources(memory=10**8))
        assert sorted(path.name for path in root.iterdir()) == ["cgroup.controllers", "cgroup.procs", "gestalt"]
        assert (root / "cgroup.procs").read_text() == ""


def test_a_machine_without_cgroups_does_without_and_says_so(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    assert tree.folders("x") == []
    tree.create("x", Resources(memory=10**8))
    tree.remove("x")
    facts = tree.facts()
    assert (facts["cgroup"], facts["limits"]) == ("none", "")
    assert facts["no_memory_limit"] == "the kernel does not offer it here"
