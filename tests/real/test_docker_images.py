"""Images from a real registry on loopback: pulls, credentials, what goes wrong, and garbage."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gestalt.config import AgentSettings
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused
from gestalt.plugins.runtime.docker import DockerRuntime
from gestalt.plugins.runtime.docker_images import RECORD
from gestalt.spec.schema import AppSpec, ImagePull

from .docker_lab import docker, eventually, launch_of, make_image, remove_leftovers, settings_for, wait_until

pytestmark = pytest.mark.real

USER, PASSWORD = "reader", "s3cret-of-the-registry"


@dataclass
class Registry:
    """Debian's docker-registry in a folder, on a port of loopback, which Docker trusts without TLS."""

    folder: Path
    port: int
    password: str = ""
    process: subprocess.Popen[bytes] | None = None
    names: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        config: dict[str, Any] = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
            "http": {"addr": self.host},
        }
        if self.password:
            htpasswd = subprocess.run(["htpasswd", "-Bbn", USER, self.password], capture_output=True, check=True, timeout=20)
            (self.folder / "htpasswd").write_bytes(htpasswd.stdout)
            config["auth"] = {"htpasswd": {"realm": "lab", "path": str(self.folder / "htpasswd")}}
        (self.folder / "config.yml").write_text(json.dumps(config))
        with (self.folder / "log").open("ab") as output:
            command = ["docker-registry", "serve", str(self.folder / "config.yml")]
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        wait_until("the registry", self.answers)

    def answers(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None

    def publish(self, name: str, size: int = 1000, tag: str = "1") -> str:
        """Push an image of which this node keeps nothing."""
        reference = f"{self.host}/{name}:{tag}"
        make_image(reference, **{f"filler-{uuid.uuid4().hex}": "0" * size})
        config = self.folder / "docker-config"
        if self.password:
            docker("--config", str(config), "login", "-u", USER, "--password-stdin", self.host, stdin=self.password.encode())
        docker("--config", str(config), "push", reference)
        docker("rmi", reference)
        self.names.append(reference)
        return reference


@contextmanager
def registry(folder: Path, password: str = "") -> Iterator[Registry]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    made = Registry(folder, port, password)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        for name in docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
            if name.startswith(made.host):
                docker("rmi", "-f", name, check=False)


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("guarded"), PASSWORD) as made:
        yield made


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[AgentSettings]:
    settings = settings_for(tmp_path, image_high_water=25_000_000, image_low_water=15_000_000)
    yield settings
    remove_leftovers(settings)


def app(image: str, policy: str = "missing", credentials: str = "") -> AppSpec:
    pull = ImagePull().model_copy(update={"policy": policy, "credentials": credentials})  # unchecked: the driver is the last to look
    return AppSpec(path="/lab/real/test/web", image=image, pull=pull)


def present(image: str) -> bool:
    return bool(docker("images", "-q", image))


def write_credentials(folder: Path, registry_host: str, password: str = PASSWORD, mode: int = 0o600) -> None:
    path = folder / "lab.json"
    path.write_text(json.dumps({"registry": registry_host, "username": USER, "password": password}))
    path.chmod(mode)


def ignore(sentence: str) -> None:
    assert sentence


# --- pulls ----------------------------------------------------------------------------------------------------------------


async def test_a_missing_image_is_pulled_once_for_all_who_want_it(runtime: DockerRuntime, open_registry: Registry) -> None:
    image = open_registry.publish("shared", size=3_000_000)
    told: list[list[str]] = [[] for _ in range(5)]
    await asyncio.gather(*(runtime.prepare(app(image), sentences.append) for sentences in told))
    assert present(image)
    assert all(sentences[0].startswith(f"pulling {image}") for sentences in told[:1])
    assert told[0][-1] == f"pulling {image}: 1 of 1 layers" or "100 %" in told[0][-1], told[0]
    log = (open_registry.folder / "log").read_text()
    assert log.count("GET /v2/shared/blobs/") <= 2, "config and layer, each once"

    again: list[str] = []
    await runtime.prepare(app(image), again.append)
    assert again == []
    await runtime.launch(launch_of(app(image)))


async def test_the_policies(runtime: DockerRuntime, open_registry: Registry) -> None:
    image = open_registry.publish("policy")
    with pytest.raises(LaunchRefused, match="pull policy is `never`"):
        await runtime.prepare(app(image, "never"), ignore)
    await runtime.prepare(app(image, "missing"), ignore)
    await runtime.prepare(app(image, "never"), ignore)
    old = docker("images", "-q", "--no-trunc", image)
    docker("tag", image, "gestalt-docker-test/kept:1")
    docker("rmi", image)
    open_registry.publish("policy")
    docker("tag", "gestalt-docker-test/kept:1", image)
    docker("rmi", "gestalt-docker-test/kept:1")
    await runtime.prepare(app(image, "missing"), ignore)
    assert docker("images", "-q", "--no-trunc", image) == old
    await runtime.prepare(app(image, "always"), ignore)
    assert docker("images", "-q", "--no-trunc", image) != old
    docker("rmi", old, check=False)


async def test_an_image_that_someone_removes_is_noticed(runtime: DockerRuntime, open_registry: Registry) -> None:
    image = open_registry.publish("fleeting")
    await runtime.prepare(app(image), ignore)
    docker("rmi", image)

    async def refused() -> bool:
        try:
            await runtime.prepare(app(image, "never"), ignore)
        except LaunchRefused:
            return True
        return False

    await eventually("a refusal", refused)


async def test_a_pull_that_nobody_waits_for_any_more_is_given_up(runtime: DockerRuntime, open_registry: Registry) -> None:
    image = open_registry.publish("abandoned", size=20_000_000)
    begun = [asyncio.Event(), asyncio.Event()]
    waiting = [asyncio.create_task(runtime.prepare(app(image), lambda _, event=event: event.set())) for event in begun]  # type: ignore[misc]
    await asyncio.gather(*(event.wait() for event in begun))
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    pulls = [task for task in asyncio.all_tasks() if task.get_name() == f"pull {image}"]
    assert len(pulls) == 1, "the other one still waits"
    waiting[1].cancel()
    await asyncio.wait([*waiting, *pulls], timeout=5)
    assert pulls[0].cancelled()
    await runtime.prepare(app(image), ignore)
    assert present(image)


async def test_an_absent_image_and_a_bad_name_are_refused(runtime: DockerRuntime, open_registry: Registry) -> None:
    with pytest.raises(LaunchRefused, match=f"there is no image {open_registry.host}/absent:9 in the registry"):
        await runtime.prepare(app(f"{open_registry.host}/absent:9"), ignore)
    for bad in ("NOT/Valid", "../../etc", "a b", "x:y:z", "image?fromSrc=-"):
        with pytest.raises(LaunchRefused):
            await runtime.prepare(app("x:1").model_copy(update={"image": bad}), ignore)


async def test_a_registry_that_is_down_is_another_matter(runtime: DockerRuntime, open_registry: Registry) -> None:
    image = open_registry.publish("later")
    open_registry.stop()
    try:
        with pytest.raises(DriverUnavailable, match=f"the registry {open_registry.host} does not answer .*connection refused"):
            await runtime.prepare(app(image), ignore)
    finally:
        open_registry.start()
    await runtime.prepare(app(image), ignore)


# --- credentials ----------------------------------------------------------------------------------------------------------


async def test_credentials_open_a_guarded_registry(
    runtime: DockerRuntime, settings: AgentSettings, guarded_registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    image = guarded_registry.publish("private")
    with pytest.raises(LaunchRefused, match=r"does not let us pull .*name credentials in `pull.credentials`"):
        await runtime.prepare(app(image), ignore)
    write_credentials(settings.data_dir, guarded_registry.host, "wrong")
    with pytest.raises(LaunchRefused, match=r"does not let us pull .*are its credentials right"):
        await runtime.prepare(app(image, credentials="lab"), ignore)
    write_credentials(settings.data_dir, guarded_registry.host)
    await runtime.prepare(app(image, credentials="lab"), ignore)
    assert present(image)
    assert PASSWORD not in caplog.text
    assert PASSWORD not in (settings.data_dir / RECORD).read_text()


async def test_credentials_are_kept_from_others(runtime: DockerRuntime, settings: AgentSettings, guarded_registry: Registry) -> None:
    image = f"{guarded_registry.host}/secret:1"
    for credentials, said in (("none", "cannot read the credentials .*mode 0600"), ("../lab", "allowed are letters")):
        with pytest.raises(LaunchRefused, match=said):
            await runtime.prepare(app(image, credentials=credentials), ignore)
    write_credentials(settings.data_dir, guarded_registry.host, mode=0o640)
    with pytest.raises(LaunchRefused, match=r"others may read .*mode 0640.*chmod 600"):
        await runtime.prepare(app(image, credentials="lab"), ignore)
    write_credentials(settings.data_dir, "registry.example.com")
    with pytest.raises(LaunchRefused, match=r"are for the registry registry\.example\.com"):
        await runtime.prepare(app(image, credentials="lab"), ignore)
    (settings.data_dir / "lab.json").write_text(f'{{"password": "{PASSWORD}"')
    with pytest.raises(LaunchRefused, match="not a JSON object with") as refused:
        await runtime.prepare(app(image, credentials="lab"), ignore)
    assert PASSWORD not in str(refused.value)


# --- garbage --------------------------------------------------------------------------------------------------------------


async def test_garbage_goes_oldest_use_first_and_nothing_that_is_needed(
    runtime: DockerRuntime, settings: AgentSettings, open_registry: Registry
) -> None:
    size = 6_000_000  # and about 2 MB of busybox in each: the marks are 25 and 15 MB
    names = [open_registry.publish(f"garbage-{number}", size) for number in range(4)]
    foreign = make_image("gestalt-docker-test/foreign:1", filler="0" * size)
    try:
        for image in names:
            await runtime.prepare(app(image), ignore)
        launch = launch_of(app(names[1]))
        await runtime.launch(launch)
        await runtime.stop(launch.key, "SIGKILL", 0)
        await runtime.prepare(app(names[0]), ignore)  # used again: now the youngest

        freed = await runtime.collect_garbage([app(names[2])])
        assert {name: present(name) for name in names} == {names[0]: False, names[1]: True, names[2]: True, names[3]: False}
        assert 2 * size < freed < 3 * size
        assert present(foreign)
        assert await runtime.collect_garbage([]) == 0, "below the high mark nothing goes"
    finally:
        docker("rmi", "-f", foreign)


async def test_below_the_mark_and_without_a_record_nothing_goes(
    runtime: DockerRuntime, settings: AgentSettings, open_registry: Registry
) -> None:
    names = [open_registry.publish(f"record-{number}", 12_000_000) for number in range(2)]
    await runtime.prepare(app(names[0]), ignore)
    assert await runtime.collect_garbage([]) == 0
    await runtime.prepare(app(names[1]), ignore)
    (settings.data_dir / RECORD).write_text("{ torn")
    reborn = DockerRuntime.create(settings)
    assert await reborn.collect_garbage([]) == 0
    assert all(map(present, names))
    await reborn.close()


async def test_the_record_survives_the_agent_and_other_names_protect(
    runtime: DockerRuntime, settings: AgentSettings, open_registry: Registry
) -> None:
    names = [open_registry.publish(f"reborn-{number}", 9_000_000) for number in range(3)]
    for image in names:
        await runtime.prepare(app(image), ignore)
    docker("tag", names[0], "gestalt-docker-test/mine-now:1")
    reborn = DockerRuntime.create(settings)
    try:
        assert await reborn.collect_garbage([]) > 0
        assert [present(name) for name in names] == [True, False, False]
    finally:
        await reborn.close()
        docker("rmi", "gestalt-docker-test/mine-now:1", names[0])
