"""What a process may do and use: user, capabilities, limits, cgroups, ports, environment; and what is refused."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.config import AgentSettings
from gestalt.model import PortBinding
from gestalt.plugin.runtime import AttemptState, ExecRequest, LaunchRefused
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.plugins.runtime.process_cgroup import CgroupTree
from gestalt.spec.schema import Resources, Security, Stop, Ulimit, Volume

from .process_lab import clean_driver, ended, exists, first_line, lines, odd, order, output_of, settings_for, until

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
LIMITS = CgroupTree().facts()["limits"].split(",")
BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    return settings_for(tmp_path)


@pytest.fixture
async def runtime(settings: AgentSettings) -> AsyncIterator[ProcessRuntime]:
    async with clean_driver(settings) as runtime:
        yield runtime


async def test_probe_says_what_this_node_can_limit(runtime: ProcessRuntime) -> None:
    facts = await runtime.probe()
    assert facts["supervisor"] == "shim"
    assert facts["cgroup"] in ("v1", "v2", "none")
    assert {f"no_{name}_limit" in facts for name in ("memory", "pids", "cpu") if name not in facts["limits"].split(",")} <= {True}


class TestIdentity:
    async def test_root_has_no_capabilities_unless_they_are_listed(self, runtime: ProcessRuntime) -> None:
        script = "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; id -u"
        assert await output_of(runtime, script) == [
            b"CapEff:\t0000000000000000\n",
            b"CapBnd:\t0000000000000000\n",
            b"NoNewPrivs:\t1\n",
            b"0\n",
        ]
        some = Security(capabilities=("NET_BIND_SERVICE", "KILL"), no_new_privileges=False)
        found = await output_of(runtime, script, security=some)
        assert found == [b"CapEff:\t0000000000000420\n", b"CapBnd:\t0000000000000420\n", b"NoNewPrivs:\t0\n", b"0\n"]

    @NEEDS_ROOT
    async def test_another_user_keeps_the_listed_capabilities_and_no_groups_of_ours(self, runtime: ProcessRuntime) -> None:
        security = Security(user="nobody", capabilities=("NET_BIND_SERVICE",))
        found = await output_of(runtime, "id -un; id -G; echo $HOME; grep CapEff /proc/self/status", security=security)
        assert found == [b"nobody\n", b"65534\n", b"/nonexistent\n", b"CapEff:\t0000000000000400\n"]
        assert await output_of(runtime, "id -u; id -G", security=Security(user="4242:4343")) == [b"4242\n", b"4343\n"]

    @NEEDS_ROOT
    async def test_a_command_beside_it_is_the_same_user_in_the_same_place(self, runtime: ProcessRuntime) -> None:
        place = {"security": Security(user="nobody"), "workdir": "/usr", "env": {"A": "b c"}}
        status = await runtime.launch(order("exec sleep 1000", resources=Resources(pids=50), **place))
        script = "id -un; pwd; echo $A; grep CapBnd /proc/self/status; cat /proc/self/cgroup"
        session = await runtime.exec(status.key, ExecRequest(("/bin/sh", "-c", script)))
        output = b"".join([data async for _, data in session.output()])
        assert output.startswith(b"nobody\n/usr\nb c\nCapBnd:\t0000000000000000\n")
        assert output.count(f"/gestalt/{status.runtime_id}\n".encode()) == len(LIMITS)
        await session.close()
        session = await runtime.exec(status.key, ExecRequest(("/bin/sh", "-c", "id -u; echo $HOME"), user="root"))
        assert b"".join([data async for _, data in session.output()]) == b"0\n/root\n"
        await session.close()

    async def test_environment_is_clean_and_tells_ports(self, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SECRET_OF_THE_AGENT", "1")
        monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
        ports = (PortBinding("web-ui", 80, free_port()), PortBinding("api", 81, free_port()))
        status = await runtime.launch(order("env", ports=ports, env={"OWN": "x=y\nz", "LANG": "C"}))
        await ended(runtime, status.key)
        found = dict(line.rstrip(b"\n").split(b"=", 1) for line in await lines(runtime, status.key) if b"=" in line)
        found.pop(b"PWD", None)  # the shell's own
        assert set(found) == {
            *(b"PATH", b"HOME", b"LANG", b"OWN", b"PORT", b"PORT_WEB_UI", b"PORT_API"),
            *(b"GESTALT_APP", b"GESTALT_INSTANCE", b"GESTALT_VERSION", b"GESTALT_ATTEMPT", b"GESTALT_NODE", b"GESTALT_ADDRESS"),
        }
        assert found[b"PORT"] == found[b"PORT_WEB_UI"] == str(ports[0].host_port).encode()
        assert found[b"LANG"] == b"C"


class TestLimits:
    async def test_ulimits_are_set(self, runtime: ProcessRuntime) -> None:
        ulimits = {"nofile": Ulimit(soft=64, hard=128), "core": Ulimit(soft=0, hard=0)}
        assert await output_of(runtime, "ulimit -Sn; ulimit -Hn; ulimit -c", ulimits=ulimits) == [b"64\n", b"128\n", b"0\n"]

    @pytest.mark.skipif("pids" not in LIMITS, reason="no pids controller here")
    async def test_a_fork_bomb_is_bounded_and_dies_with_its_instance(self, runtime: ProcessRuntime) -> None:
        command = (sys.executable, "-I", "-S", "-c", BOMB)
        status = await runtime.launch(order("", command=command, resources=Resources(pids=40)))
        tasks = Path(f"/sys/fs/cgroup/pids/gestalt/{status.runtime_id}/cgroup.procs")
        tasks = tasks if tasks.exists() else Path(f"/sys/fs/cgroup/gestalt/{status.runtime_id}/cgroup.procs")
        await until("the bomb to reach its limit", lambda: len(tasks.read_text().split()) >= 35)
        assert len(tasks.read_text().split()) <= 40
        await runtime.stop(status.key, "SIGTERM", 0.2)
        assert tasks.read_text() == ""
        await runtime.remove(status.key)
        assert not tasks.parent.exists()

    @pytest.mark.skipif("cpu" not in LIMITS, reason="no cpu controller here")
    async def test_cores_are_a_weight(self, runtime: ProcessRuntime) -> None:
        status = await runtime.launch(order("exec sleep 1000", resources=Resources(cpu=0.5)))
        v1, v2 = (Path(f"/sys/fs/cgroup/{place}/{status.runtime_id}") for place in ("cpu/gestalt", "gestalt"))
        assert (v1 / "cpu.shares").read_text() == "512\n" if v1.exists() else (v2 / "cpu.weight").read_text() == "20\n"


class TestEnding:
    @pytest.mark.parametrize("cgroups", [True, False], ids=["cgroups", "no-cgroups"])
    async def test_everything_that_it_started_dies_with_it(
        self, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch, cgroups: bool
    ) -> None:
        if not cgroups:
            monkeypatch.setattr(CgroupTree, "folders", lambda *_: [])
        script = "(setsid sh -c 'trap \"\" TERM HUP; sleep 1001; sleep 1002' & echo $!); echo own; exit 4"
        status = await runtime.launch(order(script))
        assert (await ended(runtime, status.key)).exit_code == 4
        left = int((await lines(runtime, status.key))[0])
        assert not exists(left)

    async def test_the_stop_signal_of_the_app_is_sent_when_the_shim_is_told_to_end(self, runtime: ProcessRuntime) -> None:
        """As systemd does at shutdown, which knows only the shim."""
        status = await runtime.launch(order("trap 'exit 9' USR2; echo $PPID; while :; do sleep 0.02; done", stop=Stop(signal="SIGUSR2")))
        os.kill(int(await first_line(runtime, status.key)), signal.SIGTERM)
        assert (await ended(runtime, status.key)).exit_code == 9

    async def test_a_stopped_process_can_be_ended(self, runtime: ProcessRuntime) -> None:
        status = await runtime.launch(order("kill -STOP $$"))
        await runtime.stop(status.key, "SIGTERM", 0.1)
        assert (await ended(runtime, status.key)).exit_code == 137


class TestRefusals:
    @pytest.mark.parametrize(
        ("sections", "sentence"),
        [
            ({"command": ()}, "a process needs a command"),
            ({"image": "x:1"}, "has no image"),
            ({"command": ("no-such-program",)}, "the command 'no-such-program' was not found"),
            ({"command": ("/etc/passwd",)}, "the command '/etc/passwd' is not executable"),
            ({"workdir": "/no/such/place"}, "the working directory '/no/such/place' cannot be entered"),
            ({"security": odd(Security, user="no-such-user")}, "the user 'no-such-user' does not exist"),
            ({"security": odd(Security, user="root:no-such-group")}, "the group 'no-such-group' does not exist"),
            ({"security": odd(Security, capabilities=("FLY",))}, "there is no capability 'FLY'; allowed: CHOWN"),
            ({"security": Security(read_only_root=True)}, "read_only_root needs systemd"),
            ({"ulimits": {"wings": Ulimit(soft=1, hard=1)}}, "there is no ulimit 'wings'; allowed: as, core"),
            ({"ulimits": {"nofile": Ulimit(soft=2**40, hard=2**40)}}, "the limit nofile cannot be set to"),
            ({"volumes": (Volume(host_path="/a", target="/b"),)}, "host_path must equal target"),
            ({"volumes": (Volume(name="data", target="/b"),)}, "host_path must equal target"),
            ({"stop": odd(Stop, signal="SIGNOTHING")}, "there is no signal 'SIGNOTHING'"),
            ({"args": ("a\0b",)}, "NUL"),
        ],
    )
    async def test_what_cannot_work_is_refused_with_a_sentence_and_leaves_nothing(
        self, runtime: ProcessRuntime, settings: AgentSettings, sections: dict[str, object], sentence: str
    ) -> None:
        with pytest.raises(LaunchRefused, match=sentence):
            await runtime.launch(order("true", **sections))
        assert await runtime.list() == []
        assert [path.name for path in (settings.data_dir / "process").iterdir() if not path.name.startswith(".shim-")] == []
        assert list(Path("/sys/fs/cgroup").glob(f"*/gestalt/gestalt-{settings.cluster_id[:8]}-*")) == []

    async def test_a_script_without_its_interpreter_says_so(self, runtime: ProcessRuntime, tmp_path: Path) -> None:
        script = tmp_path / "script"
        script.write_text("#!/no/such/shell\n")
        script.chmod(0o755)
        with pytest.raises(LaunchRefused, match="the interpreter in its first line does not exist"):
            await runtime.launch(order("", command=(str(script),)))

    async def test_a_taken_port_is_named(self, runtime: ProcessRuntime) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(LaunchRefused, match=rf"the tcp port {port} \(web\) cannot be used on 127.0.0.1"):
                await runtime.launch(order("true", ports=(PortBinding("web", 80, port),)))
        assert await runtime.list() == []

    async def test_exit_codes_like_the_shells_own_are_no_refusals(self, runtime: ProcessRuntime) -> None:
        for code in (126, 127):
            status = await runtime.launch(order(f"exit {code}"))
            end = await ended(runtime, status.key)
            assert (end.state, end.exit_code, end.error) == (AttemptState.EXITED, code, "")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
