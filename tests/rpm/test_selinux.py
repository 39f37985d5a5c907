"""The policy module on a node that has a policy's tools and modules, and no kernel that would enforce it: what is in the linked policy."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.lab import nodes
from tests.cluster.lab.nodes import File, Node, can_run

from .conftest import Built
from .machine import OLD, prepare, rpm

DEVELOPMENT, MODULES = "/usr/share/selinux/devel/Makefile", "/usr/share/selinux/default"
POLICY, LABELS = "/etc/selinux/targeted/policy", "/etc/selinux/targeted/contexts/files/file_contexts"
COORDINATOR, FENCE = "gestalt_coordinator_t", "gestalt_fence_t"
PROVIDED = """Name: lab-selinux
Version: 1
Release: 1
Summary: What a machine with SELinux has
License: none
BuildArch: noarch
Provides: selinux-policy-targeted
Provides: policycoreutils
%description
%files
"""

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(
        shutil.which("rpmbuild") is None or not Path(DEVELOPMENT).exists() or not Path(MODULES).exists(),
        reason="rpmbuild or the tools of SELinux are not installed: scripts/install-packages rpm",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def selinux_node() -> AsyncIterator[Node]:
    """A node with a policy of the type that RHEL has, made of this Debian's modules."""
    (node,) = await nodes.up(1, group="selinux", network=False)
    try:
        await prepare(node)
        settings = b"SELINUX=permissive\nSELINUXTYPE=targeted\n"
        await node.put({"/etc/selinux/config": File(settings), "/root/selinux.spec": File(PROVIDED.encode())})
        await node.do("rpmbuild", "-bb", "--quiet", "--define", "_topdir /root/selinux", "/root/selinux.spec")
        await node.do("sh", "-c", "rpm -i /root/selinux/RPMS/*/lab-selinux*.rpm")
        await node.do("mkdir", "-p", POLICY, str(Path(LABELS).parent), "/var/lib/selinux/targeted")
        await node.do("sh", "-c", f"semodule -n -s targeted -i {MODULES}/*.pp.bz2", limit=240)
        yield node
    finally:
        await nodes.down("selinux")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def confined(selinux_node: Node, built: Built) -> AsyncIterator[Node]:
    """The same, with the module."""
    await rpm(selinux_node, "-i", *map(str, built.selinux), package(built, "gestalt-runtime"))
    yield selinux_node


def package(built: Built, name: str) -> str:
    return next(str(path) for path in built.first if path.name.startswith(name))


async def modules(node: Node) -> list[str]:
    """Return our modules in the policy, each with its priority."""
    listed = await node.do("semodule", "-s", "targeted", "-lfull")
    return [" ".join(line.split()) for line in listed.splitlines() if "gestalt" in line]


async def label(node: Node, path: str) -> str:
    """Return the type that the policy gives a path."""
    return (await node.do("matchpathcon", "-n", "-f", LABELS, path)).split(":")[2]


async def allowed(node: Node, *words: str) -> list[str]:
    """Return the rules that allow something, as sesearch has them."""
    return (await node.do("sesearch", "-A", *words, f"{POLICY}/policy.33")).splitlines()


async def test_the_module_comes_and_goes_with_its_package_for_which_daemons_ask(confined: Node, built: Built) -> None:
    ours = ["200 gestalt pp", "200 gestalt_ports cil"]
    assert await modules(confined) == ours
    kept = await confined.run("rpm", "-e", "--test", "gestalt-runtime")
    assert "gestalt-runtime = 0.1.0-1 is needed by (installed) gestalt-selinux" in kept.stderr.decode(), "dnf takes it away with the rest"
    await rpm(confined, "-e", "gestalt-selinux")
    assert await modules(confined) == []
    for name in ("gestalt-agent", "gestalt-coordinator"):
        refused = await confined.run("rpm", "-i", "--test", package(built, name))
        assert f"gestalt-selinux = {OLD} if selinux-policy-targeted) is needed by {name}" in refused.stderr.decode()
    await rpm(confined, "-i", *map(str, built.selinux))
    assert await modules(confined) == ours


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/bin/gestalt-coordinator", "gestalt_coordinator_exec_t"),
        ("/usr/bin/gestalt-fence", "gestalt_fence_exec_t"),
        ("/usr/bin/gestalt-agent", "bin_t"),
        ("/usr/bin/gestaltctl", "bin_t"),
        (f"/usr/lib/gestalt/{OLD}/bin/python", "bin_t"),
        (f"/usr/lib/gestalt/{OLD}/lib/python3.11/site-packages/gestalt/__init__.py", "lib_t"),
        ("/etc/gestalt", "gestalt_etc_t"),
        ("/etc/gestalt/pki/coordinator.key", "gestalt_etc_t"),
        ("/var/lib/gestalt/agent/records.json", "gestalt_var_lib_t"),
        ("/var/lib/gestalt/coordinator/state.db", "gestalt_coordinator_var_lib_t"),
        ("/var/lib/gestalt/fence", "gestalt_fence_var_lib_t"),
        ("/run/gestalt/agent/haproxy.cfg", "gestalt_var_run_t"),
        ("/var/run/gestalt/fence/fence.sock", "gestalt_fence_var_run_t"),
    ],
)
async def test_files_have_labels(confined: Node, path: str, expected: str) -> None:
    assert await label(confined, path) == expected


async def test_systemd_starts_both_in_domains_of_their_own_also_without_new_privileges(confined: Node) -> None:
    for domain, script in ((COORDINATOR, "gestalt_coordinator_exec_t"), (FENCE, "gestalt_fence_exec_t")):
        started = await confined.do("sesearch", "-T", "-s", "init_t", "-t", script, f"{POLICY}/policy.33")
        assert started == f"type_transition init_t {script}:process {domain};"
        assert await allowed(confined, "-s", "init_t", "-t", domain, "-c", "process2", "-p", "nnp_transition")
        assert await allowed(confined, "-s", domain, "-t", script, "-c", "file", "-p", "entrypoint")
    for domain, number in ((COORDINATOR, 0), (FENCE, 1)):
        assert f"Permissive Types: {number}" in await confined.do("seinfo", f"--permissive={domain}", f"{POLICY}/policy.33")


async def test_the_coordinator_may_do_its_work_and_nothing_else(confined: Node) -> None:
    bound = await allowed(confined, "-s", COORDINATOR, "-c", "tcp_socket", "-p", "name_bind")
    assert [rule for rule in bound if "allow_ypbind" not in rule] == [
        "allow gestalt_coordinator_t gestalt_port_t:tcp_socket { name_bind name_connect };"
    ]
    for port in ("7400", "7401", "7402"):
        assert "gestalt_port_t" in await confined.do("seinfo", f"--portcon={port}", f"{POLICY}/policy.33")
    state = await allowed(confined, "-s", COORDINATOR, "-t", "gestalt_coordinator_var_lib_t", "-c", "file", "-p", "write")
    assert len(state) == 1
    for kind, permission in (("etc_t", "write"), ("shadow_t", "read"), ("gestalt_fence_var_lib_t", "read"), ("gestalt_var_lib_t", "read")):
        assert await allowed(confined, "-s", COORDINATOR, "-t", kind, "-c", "file", "-p", permission) == [], (kind, permission)
    assert await allowed(confined, "-s", COORDINATOR, "-c", "file", "-p", "execute_no_trans") == []
    assert await allowed(confined, "-s", COORDINATOR, "-c", "process", "-p", "transition") == []
    powers = await allowed(confined, "-s", COORDINATOR, "-t", COORDINATOR, "-c", "capability")
    assert [rule for rule in powers if "allow_ypbind" not in rule] == []


async def test_to_connect_anywhere_is_for_a_boolean_that_is_off(confined: Node) -> None:
    rules = await allowed(
        confined, "-s", COORDINATOR, "-t", "port_type", "-c", "tcp_socket", "-p", "name_connect", "-b", "gestalt_connect_any"
    )
    assert rules == ["allow gestalt_daemon port_type:tcp_socket name_connect; [ gestalt_connect_any ]:True"]
    assert "bool gestalt_connect_any false;" in await confined.do("seinfo", "-x", "-b", "gestalt_connect_any", f"{POLICY}/policy.33")


async def test_the_fence_may_kill_whatever_runs_and_feed_the_watchdog(confined: Node) -> None:
    assert await allowed(confined, "-s", FENCE, "-t", "domain", "-c", "process", "-p", "sigkill")
    assert await allowed(confined, "-s", FENCE, "-t", "cgroup_t", "-c", "file", "-p", "write")
    assert await allowed(confined, "-s", FENCE, "-t", "watchdog_device_t", "-c", "chr_file", "-p", "write")
    assert await allowed(confined, "-s", FENCE, "-t", FENCE, "-c", "capability", "-p", "sys_ptrace")
    assert await allowed(confined, "-s", FENCE, "-c", "file", "-p", "execute_no_trans") == []
