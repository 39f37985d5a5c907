"""The appliance beside bare Docker: one launch, fifty launches, the cost of being idle, the speed of `ps`.

Everything is real: the daemons as processes, the machine's Docker Engine, HAProxy. Bare `docker run` is measured in the same run, in turn.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.harness import Measurement, Ratio, machine_facts, options, ratio, report, run
from tests.real.appliance_lab import IMAGE, Appliance, free_port, wait_for, web, web_image
from tests.real.docker_lab import docker

MANY = 50
PARALLEL = 8
IDLE_SECONDS = 30.0
_LABEL = "gestalt-bench"
_OPTIONS = ["--label", _LABEL, "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--cap-add", "SETUID", "--cap-add", "SETGID"]
_COMMAND = ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]


@contextmanager
def appliance() -> Iterator[Appliance]:
    """Have an appliance up while the block runs."""
    web_image()
    with tempfile.TemporaryDirectory(prefix="gestalt-bench-") as folder:
        found = Appliance(Path(folder))
        found.init()
        try:
            found.up()
            found.wait_ready()
            yield found
        finally:
            found.destroy()


def bare_run() -> float:
    """Return the seconds of one `docker run -d` with a published port, until the command returns."""
    name = f"{_LABEL}-{uuid.uuid4().hex[:8]}"
    begun = time.perf_counter()
    docker("run", "-d", "--name", name, *_OPTIONS, "-p", f"127.0.0.1:{free_port()}:80", IMAGE, *_COMMAND)
    elapsed = time.perf_counter() - begun
    docker("rm", "-f", name)
    return elapsed


def bare_answering() -> float:
    """Return the seconds from `docker run -d` to the first answer."""
    name, port = f"{_LABEL}-{uuid.uuid4().hex[:8]}", free_port()
    begun = time.perf_counter()
    docker("run", "-d", "--name", name, *_OPTIONS, "-p", f"127.0.0.1:{port}:80", IMAGE, *_COMMAND)
    _answered(port, "/index.html", "localhost")
    elapsed = time.perf_counter() - begun
    docker("rm", "-f", name)
    return elapsed


def launch_one(found: Appliance, api: Any) -> float:
    """Return the seconds from the call of the API to the first answer through HAProxy, of an app with a health check."""
    path = f"/bench/one/live/app-{uuid.uuid4().hex[:8]}"
    host = f"{path.rpartition('/')[2]}.test"
    begun = time.perf_counter()
    api.apply(_spec(path, host, 1))
    _answered(found.http_port, "/cgi-bin/who", host)
    elapsed = time.perf_counter() - begun
    found.ctl("delete", path, "--yes")
    return elapsed


def bare_many() -> float:
    """Return the seconds of fifty `docker run -d`, eight at a time."""

    def one(number: int) -> None:
        docker("run", "-d", "--name", f"{_LABEL}-{number}", *_OPTIONS, "-p", f"127.0.0.1:{20000 + number}:80", IMAGE, *_COMMAND)

    begun = time.perf_counter()
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(one, range(MANY)))
    elapsed = time.perf_counter() - begun
    docker("rm", "-f", *docker("ps", "-aq", "--filter", f"label={_LABEL}").split())
    return elapsed


def launch_many(found: Appliance, api: Any) -> float:
    """Return the seconds from the call of the API to fifty healthy instances."""
    path = "/bench/many/live/app"
    begun = time.perf_counter()
    task = api.apply(_spec(path, "many.test", MANY))
    api.wait(task)
    elapsed = time.perf_counter() - begun
    found.ctl("delete", path, "--yes")
    return elapsed


class Api:
    """The public API, called as a program would."""

    def __init__(self, found: Appliance) -> None:
        import grpc
        import yaml

        from gestalt.proto.v1 import api_pb2, api_pb2_grpc

        context = yaml.safe_load((found.root / "etc/gestalt/client.yaml").read_text())
        chosen = context["contexts"][context["current"]]
        files = [Path(chosen[name]).read_bytes() for name in ("ca", "key", "certificate")]
        channel = grpc.secure_channel(chosen["coordinators"][0], grpc.ssl_channel_credentials(*files))
        self._messages = api_pb2
        self._apps, self._tasks = api_pb2_grpc.AppsStub(channel), api_pb2_grpc.TasksStub(channel)
        self._apps.List(api_pb2.ListRequest())

    def apply(self, spec: dict[str, Any]) -> str:
        from gestalt.spec.load import validate_spec
        from gestalt.wire import spec_to_wire

        message = spec_to_wire(validate_spec(spec))
        reply = self._apps.Apply(self._messages.LaunchRequest(request=self._messages.Request(id=uuid.uuid4().hex), apps=[message]))
        return str(reply.tasks[0].id)

    def wait(self, task: str) -> None:
        *_, last = self._tasks.Watch(self._messages.GetTaskRequest(id=task))
        assert last.state == "succeeded", last.message


def _spec(path: str, host: str, instances: int) -> dict[str, Any]:
    return web(
        path,
        instances=instances,
        ports=[{"name": "http", "container_port": 80, "http": {"hosts": [host]}}],
        checks=[{"kind": "http", "path": "/index.html", "interval": "100ms" if instances == 1 else "5s", "timeout": "100ms"}],
        stop={"grace": "0s", "drain": "0s"},
    )


def _answered(port: int, path: str, host: str) -> None:
    def answered() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    deadline = time.perf_counter() + 60
    while not answered():
        assert time.perf_counter() < deadline, f"{host} did not answer"
        time.sleep(0.005)


def idle(found: Appliance, api: Api, runs: int) -> list[Measurement]:
    """Return cpu (percent of one core) and resident memory of both daemons, with fifty instances checked every 5 s."""
    path = "/bench/idle/live/app"
    api.wait(api.apply(_spec(path, "idle.test", MANY)))
    daemons = {name: psutil.Process(_daemon(found, name)) for name in ("gestalt-agent", "gestalt-coordinator")}
    time.sleep(5)
    cpu: dict[str, list[float]] = {name: [] for name in daemons}
    memory: dict[str, list[float]] = {name: [] for name in daemons}
    for _ in range(runs):
        before = {name: sum(process.cpu_times()[:4]) for name, process in daemons.items()}
        time.sleep(IDLE_SECONDS)
        for name, process in daemons.items():
            cpu[name].append(100 * (sum(process.cpu_times()[:4]) - before[name]) / IDLE_SECONDS)
            memory[name].append(process.memory_info().rss / 1e6)
    listing = [_ps(found) for _ in range(max(runs, 5))]
    found.ctl("delete", path, "--yes")
    return [
        *(Measurement(f"{name} idle, cpu", "% of a core", tuple(values)) for name, values in cpu.items()),
        *(Measurement(f"{name} idle, resident", "MB", tuple(values)) for name, values in memory.items()),
        Measurement(f"gestaltctl ps of {MANY} instances", "ms", tuple(listing)),
    ]


def _daemon(found: Appliance, name: str) -> int:
    (pid,) = wait_for(f"one {name}", lambda: found.pids(name))
    return int(pid)


def _ps(found: Appliance) -> float:
    begun = time.perf_counter()
    found.ctl("ps")
    return 1000 * (time.perf_counter() - begun)


def main() -> None:
    """Measure everything and print it."""
    chosen = options(__doc__.splitlines()[0] if __doc__ else "")
    chosen.set_defaults(runs=5)
    arguments = chosen.parse_args()
    facts = machine_facts() | {"docker": docker("version", "-f", "{{.Server.Version}}")}
    facts["haproxy"] = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
    with appliance() as found:
        api = Api(found)
        launch_one(found, api)
        one = run(
            {
                "docker run -d": bare_run,
                "docker run -d, to the first answer": bare_answering,
                "launch of one, to healthy and answered through HAProxy": lambda: launch_one(found, api),
            },
            "s",
            arguments.runs,
        )
        many = run(
            {
                f"{MANY} docker run -d, {PARALLEL} at a time": bare_many,
                f"launch of {MANY}, to all healthy": lambda: launch_many(found, api),
            },
            "s",
            arguments.runs,
        )
        quiet = idle(found, api, arguments.runs)
    bare, _, launch = one.values()
    fifty_bare, fifty = many.values()
    ratios = [
        Ratio("launch of one above docker run, seconds", launch.median - bare.median, "at most 0.4"),
        ratio(f"launch of {MANY} to bare", fifty, fifty_bare, "at most 1.3"),
    ]
    report(facts, [*one.values(), *many.values(), *quiet], ratios, arguments.output)


if __name__ == "__main__":
    assert os.geteuid() == 0, "run it as root"
    main()
