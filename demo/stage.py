"""What the demo stands on: its appliance under a root of its own, driven by `gestaltctl` as an operator would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from demo import image
from gestalt.appliance.processes import find

CLONE = Path(__file__).resolve().parents[1]
ROOT = Path(os.environ.get("DEMO_ROOT", CLONE / ".run/demo")).resolve()
APP = "/demo/shop/live/web"
_NO_DOCKER = 3


class StageError(Exception):
    """A step of the demo did not work; what the tools said is on the screen."""


class Stage:
    """The demo's appliance. `socket` is Docker's; None: plain processes are the runtime."""

    def __init__(self, docker_socket: Path | None) -> None:
        self.socket = docker_socket
        self.client = ROOT / "etc/gestalt/client.yaml"

    @property
    def runtime(self) -> str:
        return "process" if self.socket is None else "docker"

    @property
    def port(self) -> int:
        """The http port of the demo's HAProxy."""
        return int(_agent_settings()["proxy"]["http_port"])

    def start(self) -> None:
        """Have the appliance up. One of an earlier demo is used again, unless that had another runtime."""
        known = _agent_settings()
        if known and known.get("runtimes") != self._runtimes():
            say("an earlier demo ran with another runtime: it is removed first")
            self.gestaltctl("appliance", "destroy", "--root", str(ROOT), "--yes")
        known = _agent_settings()
        self.gestaltctl("appliance", "init", "--root", str(ROOT), *self._choices(known=bool(known)))
        if known or _daemons_run():
            say("the daemons of an earlier demo are restarted, so that they are of this checkout; what they run is left alone")
            self.gestaltctl("appliance", "down", "--root", str(ROOT))
        self.gestaltctl("appliance", "up", "--root", str(ROOT))

    def describe(self, version: int, instances: int) -> Path:
        """Write the description of the app at a version; return the file."""
        document = yaml.safe_load((CLONE / "demo/web.yaml").read_text(encoding="utf-8"))
        document["instances"] = instances
        document["env"]["GREETING"] = f"hello from version {version}"
        if self.socket is None:
            for name in ("image", "pull", "security"):
                del document[name]
            del document["ports"][0]["container_port"]
            document["runtime"] = "process"
            document["command"] = [str(Path(sys.executable).resolve()), "-I", "-S", "-B", str(CLONE / "demo/app.py"), "127.0.0.1"]
        file = ROOT / f"web-{version}.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return file

    def gestaltctl(self, *words: str) -> None:
        """Run a command of the operator's, as if typed.

        Raises:
            StageError: it failed; it has told why.
        """
        say(f"$ gestaltctl {' '.join(words)}", style="1")
        if subprocess.run([_program(), *words], env=self.environment(), stdin=subprocess.DEVNULL, check=False).returncode:
            raise StageError(f"gestaltctl {words[0]} failed")

    def ask(self, *words: str) -> Any:
        """Return what a command of the operator's says, as data."""
        done = subprocess.run(
            [_program(), *words, "-o", "json"], env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode:
            raise StageError(done.stderr.decode(errors="replace").strip())
        return json.loads(done.stdout)

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return the instances of the app by id."""
        return {item["id"]: item for item in self.ask("ps", APP)["instances"]}

    def environment(self) -> dict[str, str]:
        """Return the environment in which gestaltctl speaks to the demo's appliance."""
        return {**os.environ, "GESTALT_CONFIG": str(self.client)}

    def _runtimes(self) -> list[str]:
        return ["process"] if self.socket is None else ["docker", "process"]

    def _choices(self, *, known: bool) -> list[str]:
        if known:
            return []
        first = free_ports(21)
        choices = {"--http-port": free_port(8080), "--api-port": free_port(7410), "--health-port": free_port(7412), "--node-name": "demo"}
        words = [word for name, value in choices.items() for word in (name, str(value))]
        words += ["--port-range", f"{first}-{first + 20}"]
        words += [word for name in self._runtimes() for word in ("--runtime", name)]
        return words if self.socket is None else [*words, "--docker-socket", str(self.socket)]


def find_docker() -> Path | None:
    """Have a Docker Engine answer and return its socket, or None when there is to be none or can be none."""
    if os.environ.get("DEMO_RUNTIME") == "process":
        say("DEMO_RUNTIME=process: plain processes instead of containers")
        return None
    done = subprocess.run([str(CLONE / "scripts/ensure-docker")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode == _NO_DOCKER:
        say("no Docker Engine can run here: the same show with plain processes")
        return None
    if done.returncode:
        raise StageError("Docker could not be started; see above")
    return Path(done.stdout.decode().strip())


def remove_everything() -> None:
    """Remove every trace of the demo; nothing to do is fine."""
    settings = _agent_settings()
    socket_path = find_docker() if "docker" in settings.get("runtimes", ["docker"]) else None
    stage = Stage(socket_path)
    if ROOT.exists():
        stage.gestaltctl("appliance", "destroy", "--root", str(ROOT), "--yes")
    if socket_path is not None:
        image.remove(socket_path)
    shutil.rmtree(ROOT, ignore_errors=True)


def write_shortcut() -> Path:
    """Write a file that, sourced by a shell, makes gestaltctl speak to the demo's appliance; return it."""
    file = ROOT / "env"
    file.write_text(f'export PATH="{Path(_program()).parent}:$PATH" GESTALT_CONFIG="{ROOT}/etc/gestalt/client.yaml"\n', encoding="utf-8")
    return file


def free_port(wanted: int) -> int:
    """Return `wanted` or the next port that nothing listens on."""
    return next(port for port in range(wanted, 65536) if _is_free(port))


def free_ports(count: int) -> int:
    """Return the first of `count` free ports in a row."""
    first = 3000
    while taken := [port for port in range(first, first + count) if not _is_free(port)]:
        first = taken[-1] + 1
    return first


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def say(text: str, *, style: str = "") -> None:
    """Print a line, in a style where a terminal shows it."""
    print(f"\x1b[{style}m{text}\x1b[0m" if style and sys.stdout.isatty() else text, flush=True)


def wait_until(what: str, reached: Any, limit: float = 60.0) -> Any:
    """Return the first answer of `reached` that is true.

    Raises:
        StageError: there was none within `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while not (answer := reached()):
        if time.monotonic() > deadline:
            raise StageError(f"waited {limit:.0f} s in vain: {what}")
        time.sleep(0.05)
    return answer


def _daemons_run() -> bool:
    """Whether daemons of this root run, though their files may have been deleted under them."""
    return any(
        find(name, str(ROOT / f"etc/gestalt/{name.removeprefix('gestalt-')}.yaml")) for name in ("gestalt-coordinator", "gestalt-agent")
    )


def _agent_settings() -> dict[str, Any]:
    try:
        document = yaml.safe_load((ROOT / "etc/gestalt/agent.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return document if isinstance(document, dict) else {}


def _program() -> str:
    return str(Path(sys.executable).with_name("gestaltctl"))
