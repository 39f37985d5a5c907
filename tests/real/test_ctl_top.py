"""`gestaltctl top`, and usage where else it is shown, against a small real coordinator."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from gestalt.ctl.exits import Exit
from gestalt.proto.v1 import model_pb2
from tests.real.ctl_server import PROGRAM, CtlServer

pytestmark = pytest.mark.real

_TOP = """\
INSTANCE      NODE   CORES  OF ASKED    MEMORY  OF LIMIT  REQUESTS/S  UNDER WAY
web-3fa9c1-2  node1   1.20      240%   64.5MiB       50%        12.3          4
web-3fa9c1-1  node1   0.05       10%  100.5MiB         -         0.0          0
"""


@pytest.fixture
def server(server: CtlServer) -> CtlServer:
    instances, mib = server.world.instances, 1024**2
    instances["web-3fa9c1-1"].usage.CopyFrom(model_pb2.Usage(cpu=0.05, cpu_share=0.1, memory=int(100.5 * mib), age=1))
    busy = model_pb2.Usage(cpu=1.2, cpu_share=2.4, memory=int(64.5 * mib), memory_share=0.5, requests=12.34, queue=4, age=1)
    instances["web-3fa9c1-2"].usage.CopyFrom(busy)
    return server


def test_who_uses_most_comes_first(server: CtlServer) -> None:
    del server.world.instances["web-3fa9c1-3"]
    assert server.ctl("top", "web").stdout == _TOP
    order = server.ctl("top", "web", "--sort", "memory", "-o", "name").stdout.split()
    assert order == ["web-3fa9c1-1", "web-3fa9c1-2"]


def test_what_is_not_known_is_said_to_be_so(server: CtlServer) -> None:
    last = server.ctl("top", "/shop/main/prod").stdout.splitlines()[-1]
    assert last.split() == ["web-3fa9c1-3", "node1", "-", "-", "-", "-", "-", "-"]
    shapes = {item["id"]: item["usage"] for item in json.loads(server.ctl("top", "-o", "json").stdout)["instances"]}
    assert shapes["web-3fa9c1-3"] is None
    assert shapes["web-3fa9c1-2"]["queue"] == 4


def test_ps_and_inspect_tell_it_too(server: CtlServer) -> None:
    assert server.ctl("ps", "web", "-o", "wide").stdout.splitlines()[2].split()[-2:] == ["1.20", "64.5MiB"]
    said = "  uses       1.20 cores (240% of what it asked for), memory 64.5MiB (50% of its limit), 12.3 requests a second, 4 under way\n"
    assert said in server.ctl("inspect", "web-3fa9c1-2").stdout
    assert "  uses       0.05 cores (10% of what it asked for), memory 100.5MiB\n" in server.ctl("inspect", "web-3fa9c1-1").stdout


def test_watch_looks_again_until_it_is_interrupted(server: CtlServer) -> None:
    with subprocess.Popen([*PROGRAM, "top", "web", "-w"], env=server.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline().split()[0] for _ in range(5)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == Exit.INTERRUPTED
    assert seen == ["INSTANCE", "web-3fa9c1-2", "web-3fa9c1-1", "web-3fa9c1-3", "INSTANCE"]


def test_watch_goes_with_tables_only(server: CtlServer) -> None:
    ended = server.ctl("top", "-w", "-o", "json")
    assert ended.returncode != Exit.OK
    assert "--watch goes with tables only" in ended.stderr


def test_what_autoscaling_does_is_told_with_the_app(server: CtlServer) -> None:
    app = server.world.apps["/shop/main/prod/web"]
    assert "autoscale" not in server.ctl("inspect", "web").stdout
    app.spec.autoscale.min, app.spec.autoscale.max = 2, 10
    app.autoscaling = "cpu 65 % of 70 %: 3 are right"
    assert "  autoscale  2 to 10; cpu 65 % of 70 %: 3 are right\n" in server.ctl("inspect", "web").stdout
    assert "  cpu 65 % of 70 %: 3 are right\n" in server.ctl("ps", "--apps", "-o", "wide").stdout
