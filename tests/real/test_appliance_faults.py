"""Everything that may die on an appliance dies, under traffic: what is promised stays true, with counts."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path

import pytest
import yaml

from tests.real.appliance_lab import Appliance, Traffic, wait_for, web, web_image
from tests.real.docker_lab import docker

pytestmark = pytest.mark.timeout(240)
WEB = "/test/e2e/live/web"
SOAK = float(os.environ.get("GESTALT_SOAK_SECONDS", "0"))


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    web_image()
    appliance = Appliance(tmp_path_factory.mktemp("appliance"))
    appliance.init()
    try:
        appliance.up()
        yield appliance
    finally:
        appliance.destroy()
    assert not appliance.containers()
    assert not appliance.pids("haproxy")


@pytest.fixture
def running(appliance: Appliance) -> Iterator[Appliance]:
    appliance.wait_ready()
    appliance.apply(web())
    yield appliance
    appliance.ctl("delete", WEB, "--yes")


def test_agent_and_coordinator_killed_under_traffic_cost_nothing(running: Appliance) -> None:
    before = running.containers()
    assert len(before) == 3
    with Traffic(running.http_port, methods=("GET", "POST")) as traffic:
        for _ in range(3):
            for daemon in ("gestalt-agent", "gestalt-coordinator"):
                running.kill(daemon)
                running.up()
                running.wait_ready()
    assert [count.failures for count in traffic.counts.values()] == [[], []]
    assert running.containers() == before, "no instance was restarted"


def test_a_killed_container_costs_no_get_and_is_replaced(running: Appliance) -> None:
    with Traffic(running.http_port) as traffic:
        for _ in range(3):
            before = running.containers()
            victim = random.choice(sorted(before))
            docker("kill", victim)
            wait_for("a new attempt", lambda gone=victim: len(now := running.containers()) == 3 and gone not in now, state=running.logs)
            after = running.containers()
            kept = {name: item for name, item in before.items() if name != victim}
            assert {name: after.get(name) for name in kept} == kept, "only the killed one was restarted"
            wait_for("all to be ready", lambda: all(item["observed"]["ready"] for item in running.instances(WEB)), state=running.logs)
    assert traffic.counts["GET"].failures == []


def test_a_killed_haproxy_is_back_and_costs_only_what_was_in_flight(running: Appliance) -> None:
    before = running.containers()
    with Traffic(running.http_port) as traffic:
        for _ in range(3):
            old = set(running.pids("haproxy"))
            answered = traffic.counts["GET"].answered
            running.kill("haproxy")
            wait_for("another haproxy", lambda old=old: set(running.pids("haproxy")) - old, state=running.logs)
            wait_for("answers", lambda seen=answered: traffic.counts["GET"].answered > seen + 20, state=running.logs)
    failures, pause = traffic.counts["GET"].failures, traffic.longest_pause("GET")
    print(f"3 kills of haproxy cost {len(failures)} of {traffic.counts['GET'].sent} GETs; longest pause {pause:.2f} s")
    assert running.containers() == before
    assert len(failures) < traffic.counts["GET"].sent / 2


def test_scale_and_update_lose_no_request(running: Appliance) -> None:
    with Traffic(running.http_port, methods=("GET", "POST")) as traffic:
        running.ctl("scale", WEB, 6)
        running.ctl("scale", WEB, 2)
        running.apply(web(instances=3, env={"GREETING": "v2"}))
        running.ctl("restart", WEB)
    assert [count.failures for count in traffic.counts.values()] == [[], []]
    assert {item["version"] for item in running.instances(WEB)} == {2}


def test_requests_change_over_from_blue_to_green_and_none_is_lost(running: Appliance) -> None:
    with Traffic(running.http_port, methods=("GET", "POST")) as traffic:
        for greeting in ("green", "blue"):
            before = running.containers()
            running.apply(web(env={"GREETING": greeting}, update={"strategy": "blue_green"}))
            assert not before.keys() & running.containers().keys()
    assert [count.failures for count in traffic.counts.values()] == [[], []]


def test_an_update_that_never_becomes_healthy_is_rolled_back_and_says_why(running: Appliance) -> None:
    before = running.containers()
    bad = web(
        env={"GREETING": "bad"},
        checks=[{"kind": "http", "path": "/nothing-here", "interval": "200ms", "timeout": "100ms", "grace": "500ms"}],
        update={"health_deadline": "2s"},
    )
    with Traffic(running.http_port) as traffic:
        done = running.apply(bad, check=False)
    assert done.returncode == 8, done.stdout + done.stderr
    assert "rolled back to version" in done.stdout + done.stderr
    assert "404" in done.stdout + done.stderr
    assert traffic.counts["GET"].failures == []
    assert running.containers() == before, "the good ones were never touched"


def test_a_port_that_someone_else_took_is_gone_around(appliance: Appliance) -> None:
    appliance.wait_ready()
    appliance.apply(web(instances=1))
    (first,) = appliance.instances(WEB)
    taken = first["ports"][0]["host_port"] + 1
    with socket.socket() as someone:
        someone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        someone.bind(("127.0.0.1", taken))
        someone.listen()
        appliance.ctl("scale", WEB, 2)
        ports = {item["ports"][0]["host_port"] for item in appliance.instances(WEB)}
        assert taken not in ports
        assert len(ports) == 2
    appliance.ctl("delete", WEB, "--yes")


def test_an_absent_image_is_told_and_the_launch_fails_in_time(appliance: Appliance) -> None:
    appliance.wait_ready()
    checks = [{"kind": "http", "path": "/index.html", "grace": "1s"}]
    spec = web("/test/e2e/live/absent", image="no-such-image:9", pull={"policy": "never"}, checks=checks, update={"health_deadline": "2s"})
    done = appliance.apply(spec, check=False)
    assert done.returncode == 8, done.stdout + done.stderr
    assert "no-such-image:9" in done.stdout + done.stderr
    appliance.ctl("delete", "/test/e2e/live/absent", "--yes")
    assert appliance.instances("/test/e2e/live/absent") == []


def test_a_crash_loop_is_named_with_its_last_words(appliance: Appliance) -> None:
    appliance.wait_ready()
    spec = web(
        "/test/e2e/live/crash",
        ports=[],
        checks=[],
        command=["/bin/sh", "-c", "echo the database is missing; exit 3"],
        instances=1,
        restart={"backoff": "50ms", "backoff_max": "100ms", "crash_loop": 3},
    )
    done = appliance.apply(spec, check=False)
    assert done.returncode == 8, done.stdout + done.stderr
    assert "crash loop" in done.stdout + done.stderr
    (instance,) = appliance.instances("/test/e2e/live/crash")
    assert instance["observed"]["crash_loop"]
    assert "the database is missing" in "\n".join(appliance.ctl("inspect", instance["id"]).stdout.splitlines())
    appliance.ctl("delete", "/test/e2e/live/crash", "--yes")


@pytest.mark.soak
@pytest.mark.timeout(240 + SOAK)
def test_killed_at_random_moments_nothing_is_lost_and_nothing_doubled(appliance: Appliance) -> None:
    seed = int(os.environ.get("GESTALT_SEED", random.randrange(2**32)))
    print(f"seed {seed}")
    chance = random.Random(seed)
    appliance.wait_ready()
    paths = [f"/test/e2e/chaos/app{number}" for number in range(3)]
    end = threading.Event()

    def chaos() -> None:
        while not end.wait(chance.uniform(0.2, 1.0)):
            appliance.kill(chance.choice(["gestalt-agent", "gestalt-coordinator"]))
            appliance.up()

    killer = threading.Thread(target=chaos)
    killer.start()
    wanted: dict[str, int] = {}
    end_of_soak = time.monotonic() + SOAK
    try:
        for round_ in takewhile(lambda number: number < 6 or time.monotonic() < end_of_soak, count()):
            path = chance.choice(paths)
            instances = chance.randrange(1, 4)
            spec = web(path, instances=instances, env={"GREETING": f"round {round_}"}, ports=[])
            spec["checks"] = []
            done = appliance.ctl("apply", "-f", "-", "--detach", stdin=yaml.safe_dump(spec), check=False)
            if done.returncode == 0:
                wanted[path] = instances
            elif path in wanted:
                wanted.pop(path)
                appliance.ctl("delete", path, "--yes", "--detach", check=False)
    finally:
        end.set()
        killer.join()
    appliance.up()
    appliance.wait_ready()
    for path, number in wanted.items():
        wait_for(f"{number} of {path}", lambda path=path, number=number: _healthy(appliance, path) == number, state=appliance.logs)
    wait_for("as many containers as instances", lambda: len(appliance.containers()) == len(appliance.instances()), state=appliance.logs)
    names = [name.rpartition("-")[0] for name in appliance.containers()]
    assert len(set(names)) == len(names), "no instance runs twice"
    for path in paths:
        appliance.ctl("delete", path, "--yes", check=False)
    wait_for("nothing to be left", lambda: not appliance.containers(), state=appliance.logs)


def _healthy(appliance: Appliance, path: str) -> int:
    found = appliance.instances(path)
    return sum(item["observed"]["ready"] for item in found) if not any(item["stopping"] for item in found) else -1


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "gestalt-test", folder], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=10)


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("wb", buffering=0) as filler:
        for size in (65536, 512, 1):
            with suppress(OSError):
                while filler.write(bytes(size)):
                    pass


def test_a_full_disk_refuses_changes_clearly_and_recovers(tmp_path: Path) -> None:
    web_image()
    data = tmp_path / "small"
    settings = {"coordinator": {"store": {"path": str(data / "state.db")}}}
    appliance = Appliance(tmp_path / "root", settings=settings)
    with small_disk(data):
        appliance.init()
        try:
            appliance.up()
            appliance.apply(web(instances=1))
            before = appliance.containers()
            filler = data / "filler"
            fill(filler)
            done = appliance.ctl("scale", WEB, 2, "--timeout", "5s", check=False)
            assert done.returncode == 6, (done.returncode, done.stdout + done.stderr)
            assert "space" in done.stdout + done.stderr
            assert appliance.containers() == before
            filler.unlink()
            appliance.ctl("scale", WEB, 2)
            assert len(appliance.containers()) == 2
        finally:
            appliance.destroy()


def test_the_agent_starts_without_docker_and_goes_on_when_it_is_there(tmp_path: Path, appliance: Appliance) -> None:
    """The socket is a link that is made later: the Engine behind it is the machine's."""
    web_image()
    link = tmp_path / "docker.sock"
    other = Appliance(tmp_path / "root", docker_socket=str(link))
    other.init()
    try:
        other.up()
        problems = wait_for("the problem to be told", lambda: other.json("nodes")["nodes"][0]["problems"], state=other.logs)
        assert any("Docker" in problem for problem in problems)
        reply = other.ctl("apply", "-f", "-", "--detach", stdin=yaml.safe_dump(web(instances=1)))
        assert "no working docker runtime" in reply.stdout + reply.stderr
        link.symlink_to("/var/run/docker.sock")
        wait_for("the instance to be ready", lambda: _healthy(other, WEB) == 1, state=other.logs)
        wait_for("the problem to be gone", lambda: not other.json("nodes")["nodes"][0]["problems"], state=other.logs)
    finally:
        other.destroy()


def test_an_instance_that_stops_answering_is_taken_out_and_restarted(running: Appliance) -> None:
    victim = sorted(running.containers())[0]
    with Traffic(running.http_port) as traffic:
        docker("pause", victim)
        try:
            wait_for(
                "the hung one to be out of service",
                lambda: sum(item["observed"]["ready"] for item in running.instances(WEB)) == 2,
                state=running.logs,
            )
        finally:
            docker("unpause", victim, check=False)
        wait_for("all to be ready", lambda: sum(item["observed"]["ready"] for item in running.instances(WEB)) == 3, state=running.logs)
    print(f"{len(traffic.counts['GET'].failures)} of {traffic.counts['GET'].sent} GETs failed while one instance hung")
