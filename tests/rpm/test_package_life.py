"""The life of the packages on a node that boots systemd: installed, started, upgraded under an app that runs, taken back, erased."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from gestalt import shell
from tests.cluster.lab.cluster import web
from tests.cluster.lab.nodes import CHECKOUT, File, Node, can_run

from .conftest import Built, Machine
from .machine import NEW, OLD, PACKAGES, active, files, processes, rpm

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
]

UNITS = ("gestalt-coordinator", "gestalt-fence", "gestalt-agent")
HAPROXY = "gestalt-haproxy.service"
INSTALLED_MAX = 150 * 1000**2
SECURITY_MAX = {"gestalt-coordinator": 1.5, "gestalt-fence": 4.5, "gestalt-haproxy": 2.5}
MADE_HERE = ("/etc/gestalt", "/var/lib/gestalt", "/run/gestalt")


def names(packages: Sequence[Path]) -> tuple[str, ...]:
    return tuple(map(str, packages))


async def install(node: Node, packages: Sequence[Path]) -> None:
    await rpm(node, "-i", *names(packages))


async def found_cluster(machine: Machine, root: str) -> None:
    """Make a cluster of the node, below a root in ZooKeeper, and have systemd start its daemons."""
    node = machine.lab.nodes[0]
    hosts = ",".join(machine.lab.ensemble.hosts)
    await node.do("gestaltctl", "cluster", "init", "--zookeeper", hosts, "--zookeeper-root", root, "--address", node.address)
    await node.do("sh", "-c", """echo 'watchdog: ""' >>/etc/gestalt/fence.yaml""")  # what a node sees of it is that of this machine
    await node.do("systemctl", "start", *UNITS)


async def launch(node: Node) -> None:
    spec = yaml.safe_dump(web("/lab/main/prod/shop", instances=2)).encode()
    await node.do("gestaltctl", "launch", "--file", "-", stdin=spec, limit=90)


async def containers(node: Node) -> set[str]:
    return set((await node.do("docker", "ps", "--no-trunc", "--quiet")).split())


async def test_two_builds_are_the_same_small_enough_and_need_nothing_of_others_python(built: Built) -> None:
    """That two builds are the same, byte by byte, is what the building itself looks at."""
    described = await shell.run(("rpm", "-qp", "--queryformat", "%{NAME} %{SIZE}\\n", *names(built.first)), limit=60)
    sizes = dict(line.split() for line in described.stdout.decode().splitlines())
    assert set(sizes) == set(PACKAGES)
    assert sum(map(int, sizes.values())) <= INSTALLED_MAX
    needed = await shell.run(("rpm", "-qp", "--requires", *names(built.first)), limit=60)
    assert [line for line in needed.stdout.decode().splitlines() if "python3dist" in line] == []
    listed = await shell.run(("rpm", "-qpl", *names(built.first)), limit=60)
    outside = [
        path for path in listed.stdout.decode().split() if path.endswith((".py", ".pyc")) and not path.startswith("/usr/lib/gestalt/")
    ]
    assert outside == []


@pytest.mark.skipif(shutil.which("rpmlint") is None, reason="rpmlint is not installed: scripts/install-packages rpm")
async def test_rpmlint_finds_nothing_but_what_is_explained(built: Built) -> None:
    packaging = CHECKOUT / "packaging"
    source = next(built.first[0].parent.glob("source/*.src.rpm"))
    argv = (
        "rpmlint",
        "--config",
        str(packaging / "rpmlint.toml"),
        *names([*built.first, *built.selinux]),
        str(source),
        str(packaging / "gestalt.spec"),
    )
    done = await shell.run(argv, limit=300, cwd=str(CHECKOUT))
    assert done.ok, done.stdout.decode()
    assert b"; 0 errors, 0 warnings," in done.stdout, done.stdout.decode()


async def test_nothing_starts_by_itself_and_without_settings_it_says_what_to_do(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    assert await active(node, UNITS) == ["inactive"] * 3
    assert (await node.run("systemctl", "is-enabled", *UNITS)).stdout.decode().split() == ["disabled"] * 3
    assert not (await node.run("systemctl", "start", "gestalt-agent")).ok
    assert "gestaltctl appliance init" in await node.do("journalctl", "--no-pager", "--unit=gestalt-agent", "--output=cat")
    given_up = await node.do("systemctl", "show", "--property=ActiveState,ExecMainStatus,NRestarts", "gestalt-agent")
    assert sorted(given_up.split()) == ["ActiveState=failed", "ExecMainStatus=78", "NRestarts=0"]
    units = ["gestalt.slice", "gestalt-haproxy.service", *(f"{unit}.service" for unit in UNITS)]
    assert await node.do("systemd-analyze", "verify", "--recursive-errors=yes", *units) == ""
    for unit, allowed in SECURITY_MAX.items():
        await node.do("systemd-analyze", "security", "--no-pager", f"--threshold={allowed * 10:.0f}", f"{unit}.service")


async def test_a_workstation_has_gestaltctl_and_its_runtime_and_nothing_that_listens_or_starts(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    wanted = [path for path in built.first if path.name.startswith(("gestaltctl-", "gestalt-runtime-"))]
    listening = await node.do("ss", "--listening", "--tcp", "--udp", "--no-header", "--numeric")
    await install(node, wanted)
    assert "gestaltctl" in await node.do("gestaltctl", "--version")
    refused = await node.run("gestaltctl", "status")
    assert refused.code == 2, refused
    assert (await node.run("systemctl", "list-unit-files", "--no-legend", "gestalt*")).stdout == b""
    assert await node.do("ss", "--listening", "--tcp", "--udp", "--no-header", "--numeric") == listening
    assert "gestaltctl" in await node.do("bash", "-c", "source /usr/share/bash-completion/completions/gestaltctl && complete -p gestaltctl")
    await rpm(node, "-e", "gestaltctl", "gestalt-runtime")
    assert await files(node) - machine.before == set()


async def test_links_between_the_installed_pages_lead_somewhere(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    folder = Path("/usr/share/doc/gestalt")
    pages = await node.do("sh", "-c", f"cd {folder} && grep -oE '\\]\\([^)#]+' *.md")
    links = {line.partition("](")[2] for line in pages.splitlines()}
    local = [link for link in links if not link.startswith(("http:", "https:"))]
    assert len(local) > 20
    for link in local:
        await node.do("test", "-e", str(folder / link))


async def test_man_shows_a_command_and_firewalld_is_told_of_ports(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    shown = await node.do("sh", "-c", "zcat /usr/share/man/man1/gestaltctl-node-drain.1.gz | groff -man -ww -Tutf8 -P-cbou")
    assert "gestaltctl node drain [OPTIONS] NODE" in shown
    assert (await node.do("ls", "/usr/share/man/man8")).split().count("gestalt-fence.8.gz") == 1
    services = (await node.do("ls", "/usr/lib/firewalld/services")).split()  # firewalld's own are there where it is installed
    assert [name for name in services if "gestalt" in name] == ["gestalt-agent.xml", "gestalt-coordinator.xml"]


async def test_an_upgrade_and_a_step_back_leave_alone_what_runs(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    await found_cluster(machine, "/upgraded")
    assert await active(node, UNITS) == ["active"] * 3
    await launch(node)
    before = await containers(node)
    assert len(before) == 2
    proxy = await node.do("systemctl", "show", "--property=MainPID,ActiveState", HAPROXY)
    assert "ActiveState=active" in proxy
    for packages, release in ((built.second, NEW), (built.first, OLD)):
        await rpm(node, "-U", "--oldpackage", *names(packages))
        assert await active(node, UNITS) == ["active"] * 3
        running = await processes(node, "/usr/lib/gestalt/")
        assert len(running) == 3
        assert all(line.startswith(f"/usr/lib/gestalt/{release}/bin/python ") for line in running), running
        assert await node.do("ls", "/usr/lib/gestalt") == release
        assert await containers(node) == before
        assert await node.do("systemctl", "show", "--property=MainPID,ActiveState", HAPROXY) == proxy
        (shown,) = json.loads(await node.do("gestaltctl", "nodes", "--output", "json"))["nodes"]
        assert shown["state"] in {"ready", "agent-down"}
    settled = await node.do("gestaltctl", "wait", "/lab/main/prod/shop", limit=90)
    assert await containers(node) == before, settled


async def test_a_daemon_is_restarted_while_the_code_that_it_ran_is_there(machine: Machine, built: Built) -> None:
    """Until it ends it may start supervisors from there, and import what it has not needed before."""
    node = machine.lab.nodes[0]
    await install(node, built.first)
    folders = [f"/run/systemd/system/{unit}.service.d" for unit in UNITS]
    await node.put({f"{folder}/witness.conf": File(b"[Service]\nExecStopPost=/bin/ls /usr/lib/gestalt\n") for folder in folders})
    await node.do("systemctl", "daemon-reload")
    await found_cluster(machine, "/restarted")
    old, began = await node.do("ls", "/usr/lib/gestalt"), (await node.do("date", "+@%s.%N")).strip()
    await rpm(node, "-U", *names(built.second))
    new = await node.do("ls", "/usr/lib/gestalt")
    assert new != old
    for unit in UNITS:
        said = await node.do("journalctl", "--no-pager", "--output=cat", f"--since={began}", f"--unit={unit}")
        assert [line for line in said.splitlines() if line in {old, new}] == [old, new], f"{unit}: {said}"
    await node.do("rm", "-r", *folders)


async def test_erasing_leaves_settings_state_and_what_runs_and_nothing_else(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    await found_cluster(machine, "/erased")
    await node.do("systemctl", "enable", *UNITS)
    await launch(node)
    before = await containers(node)
    await rpm(node, "-e", *PACKAGES)
    left = {path for path in await files(node) - machine.before if not path.startswith(MADE_HERE)}
    assert left == set()
    assert await processes(node, "/usr/lib/gestalt/") == []
    assert await containers(node) == before
    running = await node.do("systemctl", "list-units", "--no-pager", "--plain", "--no-legend", "--state=active", "gestalt-*")
    assert [line.split()[0] for line in running.splitlines()] == [HAPROXY], "as `docs/install.md` says"
    await node.do("systemctl", "stop", HAPROXY)
    assert await processes(node, "haproxy -W") == []


async def test_an_appliance_is_run_by_the_units_of_the_packages_and_its_end_leaves_nothing(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    await node.do("gestaltctl", "appliance", "init")
    assert "run by systemd" in await node.do("gestaltctl", "appliance", "up", limit=90)
    daemons = ("gestalt-coordinator", "gestalt-agent")
    shown = await node.do("systemctl", "show", "--property=FragmentPath,ActiveState", *daemons)
    assert shown.count("ActiveState=active") == 2
    assert all(f"/lib/systemd/system/{daemon}.service" in shown for daemon in daemons)
    await launch(node)
    await node.do("gestaltctl", "appliance", "destroy", "--yes", limit=90)
    await rpm(node, "-e", *PACKAGES)
    assert await files(node) - machine.before == set()
    assert await processes(node, "gestalt") == []
    assert await containers(node) == set()
