"""What a container gets of its app's description, and how the Engine's refusals read; against the real Engine."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gestalt.config import AgentSettings
from gestalt.model import PortBinding
from gestalt.plugin.runtime import AttemptState, ExecRequest, Launch, LaunchRefused, LogOptions
from gestalt.plugins.runtime.docker import DockerRuntime
from gestalt.plugins.runtime.docker_options import container_name, owner_labels
from gestalt.spec.schema import AppSpec, Check, Logging, Resources, Security, Ulimit, Volume

from .docker_lab import IMAGE, docker, eventually, launch_of, make_image

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("image")]

FOREVER = ("/bin/sh", "-c", "while :; do sleep 0.2; done")


def app(**sections: Any) -> AppSpec:
    return AppSpec(**{"path": "/lab/real/test/web", "image": IMAGE, "command": FOREVER, **sections})


async def shell(runtime: DockerRuntime, launch: Launch, script: str) -> str:
    session = await runtime.exec(launch.key, ExecRequest(("/bin/sh", "-c", script)))
    try:
        return b"".join([data async for _, data in session.output()]).decode()
    finally:
        await session.close()


def inspected(launched_id: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(docker("inspect", launched_id))[0]
    return document


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_app_is_confined_unless_it_says_otherwise(runtime: DockerRuntime) -> None:
    plain, eased = launch_of(app()), launch_of(app(security=Security(capabilities=("CHOWN",), no_new_privileges=False)))
    await asyncio.gather(runtime.launch(plain), runtime.launch(eased))
    status = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/1/status | awk '{print $2}'"
    assert (await shell(runtime, plain, status)).split() == ["0" * 16, "0" * 16, "1"]
    assert (await shell(runtime, eased, status)).split() == ["0" * 15 + "1"] * 2 + ["0"]


async def test_user_folder_root_and_limits_are_what_was_asked_for(runtime: DockerRuntime) -> None:
    launch = launch_of(
        app(
            workdir="/data",
            security=Security(user="1234:1234", read_only_root=True),
            ulimits={"nofile": Ulimit(soft=111, hard=222)},
            resources=Resources(cpu=0.5, memory=64 * 1024**2, pids=33),
            logging=Logging(max_size=100_000, max_files=2),
        )
    )
    launched = await runtime.launch(launch)
    assert (await shell(runtime, launch, "pwd; id -u; ulimit -Sn; ulimit -Hn")).split() == ["/data", "1234", "111", "222"]
    assert "Read-only" in await shell(runtime, launch, "touch /file 2>&1")
    assert await shell(runtime, launch, "touch /tmp/file 2>&1") == ""
    host = inspected(launched.runtime_id)["HostConfig"]
    assert (host["CpuShares"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (512, 64 * 1024**2, 64 * 1024**2, 33)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "100000b", "max-file": "2"}}
    assert host["RestartPolicy"]["Name"] == "no"


async def test_labels_name_and_ports(runtime: DockerRuntime, settings: AgentSettings) -> None:
    port = free_port()
    spec = app(command=()).model_copy(update={"labels": {"team": "a", "gestalt.node": "forged"}})
    launch = launch_of(spec, ports=(PortBinding("web-ui", 80, port),))
    launched = await runtime.launch(launch)
    document = inspected(launched.runtime_id)
    assert document["Name"] == f"/gestalt-{settings.cluster_id[:8]}-{launch.key.instance}-1"
    assert document["Config"]["Labels"] == {
        "team": "a",
        **owner_labels(settings),
        "gestalt.instance": launch.key.instance,
        "gestalt.attempt": "1",
        "gestalt.app": "/lab/real/test/web",
        "gestalt.template": "t-1",
        "gestalt.version": "1",
    }
    assert (await shell(runtime, launch, "echo $PORT_WEB_UI")).strip() == "80"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"hello\n")
    writer.close()
    (status,) = await runtime.list()
    assert status.address == document["NetworkSettings"]["IPAddress"] != ""


@pytest.mark.parametrize("holder", ["a container", "a process"])
async def test_a_taken_port_is_named_and_nothing_is_left(runtime: DockerRuntime, settings: AgentSettings, holder: str) -> None:
    port = free_port()
    binding = (PortBinding("http", 80, port),)
    with closing(socket.socket()) as taken:
        if holder == "a container":
            await runtime.launch(launch_of(app(), instance="first-1", ports=binding))
        else:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        second = launch_of(app(), instance="second-1", ports=binding)
        with pytest.raises(LaunchRefused, match=rf"host port {port} of 127\.0\.0\.1 is taken by something else"):
            await runtime.launch(second)
    assert [status.key.instance for status in await runtime.list()] == (["first-1"] if holder == "a container" else [])
    await runtime.remove(launch_of(app(), instance="first-1").key)
    await runtime.launch(second)


async def test_host_paths_are_bound_and_never_created(runtime: DockerRuntime, tmp_path: Path) -> None:
    there, missing = tmp_path / "there", tmp_path / "missing"
    there.mkdir()
    (there / "file").write_text("content")
    launch = launch_of(app(volumes=(Volume(host_path=str(there), target="/in", read_only=True),)))
    await runtime.launch(launch)
    assert await shell(runtime, launch, "cat /in/file; touch /in/other 2>&1 | grep -c Read-only") == "content1\n"

    with pytest.raises(LaunchRefused, match=f"host path {missing} does not exist on this node"):
        await runtime.launch(launch_of(app(volumes=(Volume(host_path=str(missing), target="/in"),))))
    assert not missing.exists()


async def test_a_named_volume_outlives_attempts_and_belongs_to_its_app(runtime: DockerRuntime, settings: AgentSettings) -> None:
    volume = (Volume(name="state", target="/state"),)
    first = launch_of(app(volumes=volume, command=("/bin/sh", "-c", "echo kept > /state/file; sleep 1000")), instance="a-1")
    await runtime.launch(first)
    second = launch_of(app(volumes=volume), instance="a-2")
    await runtime.launch(second)
    await runtime.remove(first.key)
    assert await shell(runtime, second, "cat /state/file") == "kept\n"
    other = launch_of(app(path="/lab/real/test/other", volumes=volume))
    await runtime.launch(other)
    assert await shell(runtime, other, "ls /state") == ""

    for status in await runtime.list():
        await runtime.remove(status.key)
    mine = ("volume", "ls", "-q", "--filter", f"label=gestalt.node={settings.node_id}")
    assert len(docker(*mine).split()) == 2
    await runtime.purge()
    assert docker(*mine) == ""
    await runtime.purge()


async def test_anonymous_volumes_go_with_the_attempt(runtime: DockerRuntime) -> None:
    name = make_image("gestalt-docker-test/volume:1", changes=("VOLUME /anonymous",))
    launch = launch_of(app(image=name))
    launched = await runtime.launch(launch)
    (mount,) = inspected(launched.runtime_id)["Mounts"]
    await runtime.remove(launch.key)
    assert mount["Name"] not in docker("volume", "ls", "-q").split()
    docker("rmi", name)


@pytest.mark.parametrize(
    ("section", "wrong", "said"),
    [
        ("", {"image": "gestalt-docker-test/absent:1"}, r"not on this node.*gestalt-docker-test/absent:1"),
        ("resources", {"memory": 1024}, "Docker refuses: .*[Mm]inimum memory"),
        ("security", {"capabilities": ("NONSENSE",)}, "Docker refuses: .*NONSENSE"),
        ("security", {"user": "nobody-here"}, "Docker refuses: .*nobody-here"),
        ("", {"command": ("/no/such",)}, 'Docker refuses: exec: "/no/such".*no such file'),
        ("", {"workdir": "relative"}, "Docker refuses: .*relative"),
        ("", {"ulimits": {"nonsense": Ulimit(soft=1, hard=1)}}, "Docker refuses: .*NONSENSE"),
    ],
)
async def test_what_cannot_work_is_refused_in_one_sentence(runtime: DockerRuntime, section: str, wrong: dict[str, Any], said: str) -> None:
    spec = app()  # what the schema would refuse before it gets here, and what only Docker can know
    spec = spec.model_copy(update={section: getattr(spec, section).model_copy(update=wrong)} if section else wrong)
    with pytest.raises(LaunchRefused, match=said) as refused:
        await runtime.launch(launch_of(spec))
    assert ".go:" not in str(refused.value)
    assert not str(refused.value).endswith(": unknown")
    assert await runtime.list() == []


async def test_the_image_s_own_health_check_runs_only_for_who_wants_it(runtime: DockerRuntime) -> None:
    name = make_image("gestalt-docker-test/health:1", changes=("HEALTHCHECK --interval=1s CMD true",))
    without, with_check = launch_of(app(image=name)), launch_of(app(image=name, checks=(Check(kind="docker"),)))
    await asyncio.gather(runtime.launch(without), runtime.launch(with_check))

    async def healthy() -> bool:
        return {s.key: s.health for s in await runtime.list()} == {without.key: "", with_check.key: "healthy"}

    await eventually("the verdict of the one check that is wanted", healthy)
    one = await runtime.inspect(with_check.key)
    assert one is not None
    assert one.health == "healthy"
    for launch in (without, with_check):
        await runtime.remove(launch.key)
    docker("rmi", name)


async def test_a_create_whose_answer_was_lost_is_taken_over(runtime: DockerRuntime, settings: AgentSettings) -> None:
    launch = launch_of(app(command=("/bin/sh", "-c", "echo once; sleep 1000")))
    made = await runtime._containers.create(launch)  # the first half of a launch, as a killed agent leaves it
    (status,) = await runtime.list()
    assert (status.key, status.state) == (launch.key, AttemptState.CREATED)
    assert (await runtime.launch(launch)).runtime_id == made
    (status,) = await runtime.list()
    assert status.state is AttemptState.RUNNING


async def test_a_stranger_with_our_name_is_left_alone(runtime: DockerRuntime, settings: AgentSettings) -> None:
    launch = launch_of(app())
    name = container_name(settings, launch.key)
    docker("run", "-d", "--name", name, IMAGE)
    try:
        with pytest.raises(LaunchRefused, match="not Gestalt's own"):
            await runtime.launch(launch)
        await runtime.stop(launch.key, "SIGKILL", 0)
        await runtime.remove(launch.key)
        assert inspected(name)["State"]["Running"]
    finally:
        docker("rm", "-f", name)


async def test_an_app_without_logs_says_so(runtime: DockerRuntime) -> None:
    launch = launch_of(app(logging=Logging(driver="none")))
    await runtime.launch(launch)
    with pytest.raises(LaunchRefused, match=r"`logging\.driver` is `none`"):
        await anext(runtime.logs(launch.key, LogOptions()))
