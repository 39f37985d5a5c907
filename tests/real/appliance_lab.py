"""A whole appliance as real processes under a folder of its own, driven by `gestaltctl`, and traffic through its HAProxy."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.docker_lab import docker, make_image

BIN = Path(sys.executable).parent
IMAGE = "gestalt-appliance-test/web:1"
PATIENCE = 40.0

_CGI = """#!/bin/sh
[ "$REQUEST_METHOD" = POST ] && cat >/dev/null
[ -n "$SLOW" ] && sleep "$SLOW"
printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s' "$GESTALT_INSTANCE" "$GREETING"
"""


def web_image() -> str:
    """Have an image whose web server tells which instance answered."""
    if not docker("images", "-q", IMAGE):
        make_image(IMAGE, **{"www/cgi-bin/who": _CGI})
    return IMAGE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any], limit: float = PATIENCE, state: Callable[[], object] = lambda: "") -> Any:
    """Wait for a condition and return its value; fail with what was seen last."""
    deadline = time.monotonic() + limit
    while not (seen := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit:g} s for {what}; last seen: {seen!r} {state()}")
        time.sleep(0.03)
    return seen


@dataclass
class Appliance:
    """One appliance. `settings` change the agent's or the coordinator's file after `init`."""

    root: Path
    runtimes: tuple[str, ...] = ("docker", "process")
    docker_socket: str = "/var/run/docker.sock"
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    health_port: int = field(default_factory=free_port)
    cluster_id: str = ""

    def init(self) -> None:
        first = random.randrange(12_000, 28_000, 200)
        ports = ["--http-port", self.http_port, "--api-port", self.api_port, "--health-port", self.health_port]
        runtimes = [part for name in self.runtimes for part in ("--runtime", name)]
        options = [*ports, "--port-range", f"{first}-{first + 199}", "--docker-socket", self.docker_socket, *runtimes]
        self.ctl("appliance", "init", "--root", self.root, *options)
        for daemon, changes in self.settings.items():
            file = self.root / f"etc/gestalt/{daemon}.yaml"
            document = yaml.safe_load(file.read_text())
            file.write_text(yaml.safe_dump(document | changes))
        self.cluster_id = yaml.safe_load((self.root / "etc/gestalt/agent.yaml").read_text())["cluster_id"]

    def up(self) -> None:
        self.ctl("appliance", "up", "--root", self.root)

    def down(self) -> None:
        self.ctl("appliance", "down", "--root", self.root)

    def destroy(self) -> None:
        self.ctl("appliance", "destroy", "--root", self.root, "--yes")

    def ctl(self, *arguments: object, check: bool = True, stdin: str | None = None, limit: float = 90) -> subprocess.CompletedProcess[str]:
        """Run gestaltctl; by default it must succeed."""
        done = subprocess.run(
            [BIN / "gestaltctl", *map(str, arguments)],
            capture_output=True,
            text=True,
            input=stdin if stdin is not None else "",
            timeout=limit,
            check=False,
            env={**os.environ, "GESTALT_CONFIG": str(self.root / "etc/gestalt/client.yaml")},
        )
        if check and done.returncode:
            pytest.fail(f"gestaltctl {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}{done.stderr}\n{self.logs()}")
        return done

    def json(self, *arguments: object) -> Any:
        return json.loads(self.ctl(*arguments, "-o", "json").stdout)

    def logs(self) -> str:
        """Return the ends of the daemons' logs, for the message of a failure."""
        files = sorted((self.root / "var/log/gestalt").glob("*.log"))
        return "\n".join(f"--- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-25:]) for file in files)

    def apply(self, *specs: dict[str, Any], check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.ctl("apply", "-f", "-", stdin=yaml.safe_dump_all(specs), check=check)

    def instances(self, path: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("ps", *([path] if path else []))["instances"]
        return found

    def containers(self) -> dict[str, str]:
        """Return container id and start time by name, of all that run for this appliance."""
        label = f"label=gestalt.cluster={self.cluster_id}"
        ids = docker("ps", "-q", "--no-trunc", "--filter", label).split()
        form = "{{.Name}} {{.Id}} {{.State.StartedAt}}"
        lines = docker("inspect", "-f", form, *ids, check=False).splitlines() if ids else []
        return {line.split()[0].lstrip("/"): line.split(" ", 1)[1] for line in lines}

    def pids(self, program: str) -> list[int]:
        """Return the processes of this appliance whose command line names a program."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if program in line and str(self.root) in line and "gestaltctl" not in line:
                    found.append(int(entry.name))
        return found

    def kill(self, program: str) -> None:
        """kill -9 every process of a program and wait until they are gone."""
        victims = set(wait_for(f"{program} to run", lambda: self.pids(program), state=self.logs))
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_for(f"{program} to be gone", lambda: not victims & set(self.pids(program)))

    def wait_ready(self) -> None:
        def ready() -> bool:
            done = self.ctl("nodes", "-o", "json", check=False)
            return done.returncode == 0 and [node["state"] for node in json.loads(done.stdout)["nodes"]] == ["ready"]

        wait_for("the node to be ready", ready, state=self.logs)


def web(path: str = "/test/e2e/live/web", **fields: Any) -> dict[str, Any]:
    """Return the description of a small web app with checks at a quick pace."""
    return {
        "path": path,
        "image": IMAGE,
        "command": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"],
        "env": {"GREETING": "v1"},
        "instances": 3,
        "resources": {"cpu": "10m"},
        "ports": [{"name": "http", "container_port": 80, "http": {"path_prefix": "/"}}],
        "checks": [{"kind": "http", "path": "/index.html", "interval": "1s", "timeout": "1s", "failures": 3}],
        "restart": {"backoff": "100ms"},
        "stop": {"grace": "1s", "drain": "1s"},
        "security": {"capabilities": ["NET_BIND_SERVICE", "SETUID", "SETGID"]},
        **fields,
    }


@dataclass
class Counted:
    """What happened to requests of one kind: when which failed, and who answered."""

    sent: int = 0
    answered: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)
    by: dict[str, int] = field(default_factory=dict)
    answers: list[float] = field(default_factory=list)


class Traffic:
    """Open-loop requests, so many a second of each method, from a thread of its own while the block runs."""

    def __init__(self, port: int, *, path: str = "/cgi-bin/who", rate: float = 30, methods: tuple[str, ...] = ("GET",)) -> None:
        self._port, self._path, self._rate, self._methods = port, path, rate, methods
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._end = False
        self.counts = {method: Counted() for method in methods}

    def __enter__(self) -> Traffic:
        self._thread.start()
        wait_for("the first answers", lambda: all(count.answered for count in self.counts.values()), state=lambda: self.counts)
        return self

    def __exit__(self, *_: object) -> None:
        self._end = True
        self._thread.join(20)

    def longest_pause(self, method: str) -> float:
        """Return the longest time between two answers, in seconds."""
        return max((late - early for early, late in itertools.pairwise(self.counts[method].answers)), default=0.0)

    async def _run(self) -> None:
        pending: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._end:
            for method in self._methods:
                pending.add(task := asyncio.create_task(self._one(method)))
                task.add_done_callback(pending.discard)
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - loop.time()))
        if pending:
            await asyncio.wait(pending, timeout=10)

    async def _one(self, method: str) -> None:
        counted, begun = self.counts[method], time.monotonic()
        counted.sent += 1
        try:
            async with asyncio.timeout(8):
                who = await self._ask(method)
            counted.answered += 1
            counted.answers.append(time.monotonic())
            counted.by[who] = counted.by.get(who, 0) + 1
        except (OSError, ValueError, TimeoutError, EOFError) as error:
            counted.failures.append((begun, f"{type(error).__name__}: {error}"))

    async def _ask(self, method: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            body = "Content-Length: 2\r\n\r\nhi" if method == "POST" else "\r\n"
            writer.write(f"{method} {self._path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{body}".encode())
            answer = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
        status, _, rest = answer.partition("\r\n")
        if " 200 " not in status + " ":
            raise ValueError(f"answered {status!r}")
        return rest.rpartition("\r\n")[2]
