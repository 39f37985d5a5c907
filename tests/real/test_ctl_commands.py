"""Every command of gestaltctl as a program, against a small real coordinator: what it prints and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gestalt.ctl.exits import OF_KIND, Exit
from gestalt.errors import Kind
from gestalt.proto.v1 import api_pb2, model_pb2
from tests.real.ctl_server import APP_FILE, DB, PROGRAM, WEB, CtlServer, add_app, add_instance

pytestmark = pytest.mark.real

_PS = """\
INSTANCE      APP                  VERSION  NODE   PHASE    HEALTH     RESTARTS   AGE  PORTS       REASON
db-77aa01-1   /shop/main/prod/db         2  node1  failed   unhealthy         5  3.2s  3001->8080  crash loop, exit code 1, back-off, \
next attempt in 12s, it exits at once
web-3fa9c1-1  /shop/main/prod/web        2  node1  running  healthy           0  1m5s  3001->8080
web-3fa9c1-2  /shop/main/prod/web        2  node1  running  healthy           0  1m5s  3002->8080
web-3fa9c1-3  /shop/main/prod/web        2  node1  running  healthy           0  1m5s  3003->8080
"""
_STATUS = """\
degraded  appliance: 2 apps, 3 of 4 instances healthy, 1 of 1 node ready, up 2h3m

Problems
  /shop/main/prod/db: 0 of 1 healthy

Apps that are not well
  /shop/main/prod/db  failed, 0 of 1 healthy: 1 instance in a crash loop

Nodes
  node1  ready, 4 instances, load 0.50, 25GiB of disk free
    ! HAProxy refused the new configuration: line 3

What to do
  gestaltctl inspect /shop/main/prod/db
  gestaltctl appliance status
  gestaltctl events --after 0
"""
_INSPECT = """\
db-77aa01-1
  app        /shop/main/prod/db
  phase      failed for 3.2s
  health     unhealthy, gets no requests
  reason     crash loop, exit code 1, back-off, next attempt in 12s, it exits at once
  exit code  1
  node       node1
  version    2
  attempt    6, 5 restarts in place
  ports      http=127.0.0.1:3001->8080
  last lines before it failed
    | opening /data
    | fatal: no such file
"""
_HISTORY = """\
version 2 (current, stable)  2026-01-02 03:04:05 by user test
  ~ image        "web:0" -> "web:1"
  + env.MODE     "fast"
  - labels.team  "a"
version 1  2026-01-02 03:04:05 by user test
"""
_PROGRESS = """\
   0ms  scale of /shop/main/prod/web, task 0001-scale
   0ms  place 0/2 running
 500ms  place 2/2 done
 500ms  healthy 0/2 running
 500ms  web-00beef-1 on node1 starting
  1.0s  healthy 2/2 done
  1.0s  web-00beef-1 on node1 running, healthy
  1.0s  succeeded: 2 of 2 instances are healthy
"""
_PLAN = """\
/shop/main/prod/web: would update
  ~ image  "web:1" -> "web:2"
  - stop web-3fa9c1-1 on node1 version 2
  + start on node1 version 3
  ! cannot place version 3: no node has 64 free cores
  note: replaced one by one
  warning: pool is not honoured yet

1 to update
"""


def app_file(server: CtlServer, name: str) -> str:
    file = server.folder / f"{name}.yaml"
    file.write_text(APP_FILE.format(name=name))
    return str(file)


# ---------------------------------------------------------------- looking


@pytest.mark.parametrize(
    ("args", "printed"),
    [
        (["ps"], _PS),
        (["inspect", "db-77aa01-1"], _INSPECT),
        (["history", "web"], _HISTORY),
        (["ps", "-o", "name", "web"], "web-3fa9c1-1\nweb-3fa9c1-2\nweb-3fa9c1-3\n"),
        (["ps", "--apps", "-o", "name"], f"{DB}\n{WEB}\n"),
        (["nodes", "-o", "name"], "node1\n"),
        (["history", WEB, "-o", "name"], "2\n1\n"),
        (["inspect", "web", "-o", "name"], f"{WEB}\n"),
        (["tasks", "-o", "name"], ""),
    ],
)
def test_what_is_there_is_printed(server: CtlServer, args: list[str], printed: str) -> None:
    ended = server.ctl(*args)
    assert (ended.stdout, ended.returncode) == (printed, Exit.OK), ended.stderr


def test_a_check_is_told_apart_from_its_health(server: CtlServer) -> None:
    instance = server.world.instances["web-3fa9c1-1"]
    instance.observed.checks.add(name="http-1", health=model_pb2.HEALTH_HEALTHY, output="HTTP 200 OK")
    assert "  check http-1 healthy: HTTP 200 OK\n" in server.ctl("inspect", instance.id).stdout


def test_tables_carry_no_colours_or_blanks_when_nobody_looks(server: CtlServer) -> None:
    for args in (["ps"], ["status"], ["nodes", "-o", "wide"], ["inspect", "web"], ["tasks"], ["events"]):
        printed = server.ctl(*args).stdout
        assert "\x1b" not in printed
        assert all(line == line.rstrip() for line in printed.splitlines())


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (["ps"], ["instances"]),
        (["ps", "--apps"], ["apps"]),
        (["nodes"], ["nodes"]),
        (["tasks"], ["tasks"]),
        (["history", "web"], ["versions"]),
        (["inspect", "web"], ["app", "instances", "runs"]),
        (["version"], ["client", "coordinator"]),
        (["context", "list"], ["current", "contexts"]),
        (["context", "show"], ["name", "coordinators", "ca", "certificate", "key", "file"]),
        (["restart", "web"], ["tasks", "unchanged", "warnings"]),
        (["restart", "web", "--detach"], ["tasks", "unchanged", "warnings"]),
    ],
)
def test_json_and_yaml_have_the_documented_keys(server: CtlServer, args: list[str], keys: list[str]) -> None:
    assert list(json.loads(server.ctl(*args, "-o", "json").stdout)) == keys
    assert list(yaml.safe_load(server.ctl(*args, "-o", "yaml").stdout)) == keys


def test_the_json_of_an_instance(server: CtlServer) -> None:
    instance = json.loads(server.ctl("inspect", "web-3fa9c1-2", "-o", "json").stdout)
    assert instance["ports"] == [{"name": "http", "container_port": 8080, "host_port": 3002, "protocol": "tcp"}]
    assert (instance["reachability"], instance["observed"]["phase"], instance["observed"]["exit_code"]) == ("reachable", "running", None)


def test_status_says_what_is_wrong_and_what_to_do(server: CtlServer) -> None:
    server.world.node_problems = ["HAProxy refused the new configuration: line 3"]
    ended = server.ctl("status")
    assert (ended.stdout, ended.returncode) == (_STATUS, Exit.FAILED)
    shape = json.loads(server.ctl("status", "-o", "json").stdout)
    assert shape["apps_not_well"] == [{"path": DB, "state": "failed", "message": "1 instance in a crash loop", "shortage": None}]
    assert shape["nodes_not_well"] == [{"name": "node1", "state": "ready", "problems": server.world.node_problems}]


def test_status_is_one_line_and_the_nodes_when_all_is_well(server: CtlServer) -> None:
    del server.world.apps[DB]
    server.world.status.state = "well"
    del server.world.status.problems[:]
    ended = server.ctl("status")
    assert ended.returncode == Exit.OK
    assert "What to do" not in ended.stdout
    assert server.ctl("status", "-o", "name").stdout == "well\n"


def test_events_go_on_after_a_token(server: CtlServer) -> None:
    ended = server.ctl("events", "--after", "4.2", "--kind", "instance", "--app", "web", "-o", "json")
    assert [json.loads(line)["token"] for line in ended.stdout.splitlines()] == ["4.3", "4.4"]
    asked = server.world.requests[-1]
    assert (asked.after, asked.follow, asked.app, list(asked.kinds)) == ("4.2", False, WEB, ["instance"])
    assert "gap" in server.ctl("events").stderr


def test_logs_keep_streams_and_bytes_apart(server: CtlServer) -> None:
    ended = server.ctl("logs", "web", "--tail", "5", "--since", "15m", "-t")
    assert (ended.stdout, ended.stderr) == ("web-3fa9c1-1  one\nweb-3fa9c1-1  two\n", "web-3fa9c1-2  oops\n")
    asked = server.world.requests[-1]
    assert (asked.app, asked.tail, asked.since, asked.timestamps) == (WEB, 5, 900, True)
    assert server.ctl("logs", "web-3fa9c1-1").stdout.encode(errors="surrogateescape") == b"alone\x00\xff\nno end of line\n"


def test_following_logs_survives_the_end_of_an_instance(server: CtlServer) -> None:
    with subprocess.Popen([*PROGRAM, "logs", "-f", "web"], stdout=-1, stderr=-1, text=True, env=server.environment()) as following:
        assert following.stdout
        lines = [following.stdout.readline() for _ in range(3)]
        server.world.log_end.set()
        _, told = following.communicate(timeout=20)
    assert lines[-1] == "web-3fa9c1-4  I go on\n"
    assert "-- web-3fa9c1-1: ended with exit code 0" in told
    assert "-- nothing more comes" in told
    assert following.returncode == Exit.OK


# ---------------------------------------------------------------- changing


def test_a_change_is_followed_line_by_line(server: CtlServer) -> None:
    ended = server.ctl("scale", "web", "5")
    assert (ended.stdout, ended.stderr, ended.returncode) == (_PROGRESS, "", Exit.OK)
    asked = server.world.requests[-1]
    assert (asked.app, asked.count) == (WEB, 5)
    assert len(asked.request.id) == 36


def test_with_json_the_final_task_is_printed_and_progress_goes_beside(server: CtlServer) -> None:
    ended = server.ctl("scale", WEB, "5", "-o", "json")
    task = json.loads(ended.stdout)["tasks"][0]
    assert (task["state"], task["instances"][0]["phase"], ended.stderr) == ("succeeded", "running", _PROGRESS)


def test_detached_only_the_id_is_printed(server: CtlServer) -> None:
    ended = server.ctl("stop", WEB, "--detach")
    assert (ended.stdout, ended.returncode) == ("0001-stop\n", Exit.OK)
    assert server.ctl("tasks", "0001", "--watch").returncode == Exit.OK


@pytest.mark.parametrize(
    ("args", "kind", "check"),
    [
        (["stop", WEB], api_pb2.AppRequest, lambda asked: asked.app == WEB),
        (["start", "web"], api_pb2.AppRequest, lambda asked: asked.app == WEB),
        (["restart", "prod/web", "--request-id", "r1"], api_pb2.AppRequest, lambda asked: asked.request.id == "r1"),
        (["rollback", "web"], api_pb2.RollbackRequest, lambda asked: asked.to_version == 0),
        (["rollback", "web", "--to-version", "1", "--expected-version", "7"], api_pb2.RollbackRequest,
         lambda asked: (asked.to_version, asked.request.expected_version) == (1, 7)),
        (["delete", "web", "--yes"], api_pb2.DeleteRequest, lambda asked: (asked.app, asked.force) == (WEB, False)),
        (["delete", "web", "--yes", "--force"], api_pb2.DeleteRequest, lambda asked: (asked.app, asked.force) == (WEB, True)),
    ],
)  # fmt: skip
def test_each_verb_asks_for_what_was_said(server: CtlServer, args: list[str], kind: type, check: Callable[[object], bool]) -> None:
    ended = server.ctl(*args, "-o", "name")
    assert ended.stdout == f"0001-{args[0]}\n"
    asked = server.world.requests[-1]
    assert isinstance(asked, kind)
    assert check(asked), asked


@pytest.mark.parametrize(("name", "code", "told"), [
    ("fails", Exit.FAILED, "error: the restart of /x/fails failed: 1 of 2 instances never became healthy\nhint: gestaltctl inspect"),
    ("gives-way", Exit.CONFLICT, "error: the restart of /x/gives-way gave way: by a newer update"),
])  # fmt: skip
def test_the_outcome_of_the_task_is_the_exit_code(server: CtlServer, name: str, code: Exit, told: str) -> None:
    add_app(server.world, f"/x/{name}", count=1)
    ended = server.ctl("restart", f"/x/{name}")
    assert ended.returncode == code
    assert told in ended.stderr


def test_a_timeout_leaves_the_task_to_itself(server: CtlServer) -> None:
    add_app(server.world, "/x/endless", count=1)
    ended = server.ctl("restart", "/x/endless", "--timeout", "500ms")
    assert ended.returncode == Exit.TIMED_OUT
    assert "has not ended within 500ms" in ended.stderr
    assert "gestaltctl tasks 0001-restart --watch" in ended.stderr


def test_ctrl_c_detaches_and_says_how_to_come_back(server: CtlServer) -> None:
    add_app(server.world, "/x/endless", count=1)
    with subprocess.Popen([*PROGRAM, "restart", "/x/endless"], stdout=-1, stderr=-1, text=True, env=server.environment()) as following:
        assert following.stdout
        while "starting" not in following.stdout.readline():
            assert following.poll() is None
        following.send_signal(signal.SIGINT)
        _, told = following.communicate(timeout=20)
    assert told == "detached; the restart of /x/endless goes on: gestaltctl tasks 0001-restart --watch\n"
    assert following.returncode == Exit.INTERRUPTED


def test_delete_asks_nobody_when_nobody_is_there(server: CtlServer) -> None:
    ended = server.ctl("delete", "web", stdin="y\n")
    assert ended.returncode == Exit.USAGE
    assert "add --yes" in ended.stderr
    assert not any(isinstance(asked, api_pb2.AppRequest) for asked in server.world.requests)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.NOT_LEADER])  # that one is no end but a search
def test_every_kind_of_error_ends_with_its_code(server: CtlServer, kind: Kind) -> None:
    ended = server.ctl("scale", f"/broken/{kind}", "1")
    assert ended.stderr == "error: this app is broken\n  path: is broken (allowed: anything else)\nhint: take another one\n"
    assert (ended.stdout, ended.returncode) == ("", OF_KIND[kind])


def test_a_name_that_fits_nothing_or_too_much(server: CtlServer) -> None:
    missing = server.ctl("inspect", "wep")
    assert missing.returncode == Exit.NOT_FOUND
    assert f"did you mean {WEB}?" in missing.stderr
    add_app(server.world, "/other/web", count=0)
    assert "may mean 2 things: /shop/main/prod/web, /other/web" in server.ctl("stop", "web").stderr


# ---------------------------------------------------------------- files


def test_launch_sends_all_files_as_one_change_and_tells_warnings(server: CtlServer) -> None:
    ended = server.ctl("launch", "-f", app_file(server, "one"), "-f", "-", "-o", "name", stdin=APP_FILE.format(name="two"))
    assert ended.stdout == "0001-launch\n0002-launch\n", ended.stderr
    for name in ("one", "two"):
        assert ended.stderr.count(f"warning: /shop/main/prod/{name}: placement.pool is not honoured yet") == 1
    assert ended.stderr.count("warning:") == 2, "each warning is told once"
    assert [spec.path for spec in server.world.requests[-1].apps] == ["/shop/main/prod/one", "/shop/main/prod/two"]


def test_progress_of_several_tasks_names_the_app(server: CtlServer) -> None:
    ended = server.ctl("launch", "-f", app_file(server, "one"), "-f", app_file(server, "two"))
    assert "  /shop/main/prod/two  succeeded: 2 of 2 instances are healthy\n" in ended.stdout


def test_launch_of_what_exists_is_a_conflict(server: CtlServer) -> None:
    assert server.ctl("launch", "-f", app_file(server, "web")).returncode == Exit.CONFLICT


def test_apply_of_what_is_so_already_changes_nothing(server: CtlServer) -> None:
    ended = server.ctl("apply", "-f", app_file(server, "web"))
    assert (ended.stdout, ended.returncode) == (f"{WEB} is so already, nothing to do\n", Exit.OK)


def test_update_asks_for_an_update(server: CtlServer) -> None:
    assert server.ctl("update", "-f", app_file(server, "web"), "--detach").stdout == "0001-update\n"


def test_plan_shows_fields_and_places(server: CtlServer) -> None:
    file = app_file(server, "web")
    ended = server.ctl("plan", "-f", file)
    assert (ended.stdout, ended.returncode) == (_PLAN, Exit.OK)
    ended = server.ctl("plan", "-f", file, "--exit-code", "-o", "json")
    assert ended.returncode == Exit.CHANGES
    assert json.loads(ended.stdout)["apps"][0]["changes"] == [{"field": "image", "before": "web:1", "after": "web:2"}]


def test_a_wrong_file_is_told_before_anyone_is_asked(server: CtlServer) -> None:
    file = server.folder / "wrong.yaml"
    file.write_text("path: /shop/main/prod/web\nimage: web:1\ninstances: many\nimagine: 3\n")
    ended = server.ctl("launch", "-f", str(file))
    assert ended.returncode == Exit.USAGE
    assert "instances" in ended.stderr
    assert "imagine" in ended.stderr
    assert server.world.requests == []


def test_a_file_that_is_not_there_or_twice(server: CtlServer) -> None:
    ended = server.ctl("launch", "-f", "/no/such.yaml")
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (
        Exit.USAGE,
        "error: /no/such.yaml cannot be read: No such file or directory",
    )
    file = app_file(server, "web")
    assert "an app is described twice" in server.ctl("launch", "-f", file, "-f", file).stderr


# ---------------------------------------------------------------- waiting, running inside, completing


def test_wait_for_health_and_for_the_end(server: CtlServer) -> None:
    assert server.ctl("wait", "web").returncode == Exit.OK
    ended = server.ctl("wait", "db", "--timeout", "500ms")
    assert ended.returncode == Exit.TIMED_OUT
    assert "is not healthy after 500ms: it is failed, 0 of 1 healthy (1 instance in a crash loop)" in ended.stderr
    assert server.ctl("wait", "/no/such/app", "--for", "gone").returncode == Exit.OK
    assert server.ctl("wait", "/no/such/app").returncode == Exit.NOT_FOUND
    stopped = server.world.apps[WEB]
    stopped.stopped, stopped.running, stopped.state = True, 0, "stopped"
    assert server.ctl("wait", "web", "--for", "stopped").returncode == Exit.OK
    stopped.stopped, stopped.count, stopped.state = False, 0, "running"
    assert server.ctl("wait", "web", "--for", "stopped").returncode == Exit.OK, "scaled to 0, no instance runs either"


def test_wait_ends_when_the_app_becomes_healthy(server: CtlServer) -> None:
    with subprocess.Popen([*PROGRAM, "wait", DB], env=server.environment()) as waiting:
        _until(lambda: any(isinstance(asked, api_pb2.GetRequest) for asked in server.world.requests), "wait asked for the app")
        server.world.apps[DB].healthy = 1
        server.world.apps[DB].state = "running"
        assert waiting.wait(timeout=20) == Exit.OK


def test_wait_for_a_task_takes_its_outcome(server: CtlServer) -> None:
    add_app(server.world, "/x/fails", count=1)
    task = server.ctl("restart", "/x/fails", "--detach").stdout.strip()
    assert server.ctl("wait", task).returncode == Exit.FAILED


def test_exec_passes_streams_and_the_exit_code_through(server: CtlServer) -> None:
    ended = server.ctl("exec", "-e", "A=b=c", "-u", "root", "web-3fa9c1-2", "--", "exit", "77")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("out\n", "err\n", 77)
    opening = server.world.exec_inputs[0].open
    assert (opening.instance, list(opening.command), dict(opening.env), opening.user) == (
        "web-3fa9c1-2",
        ["exit", "77"],
        {"A": "b=c"},
        "root",
    )


def test_exec_hands_standard_input_over_and_tells_its_end(server: CtlServer) -> None:
    ended = server.ctl("exec", "-i", "web", "cat", stdin="hello")
    assert (ended.stdout, ended.returncode) == ("<hello>end of input\n", Exit.OK)
    assert ended.stderr == "in web-3fa9c1-1\n"
    with Path("/dev/null").open() as nothing:
        plain = subprocess.run(
            [*PROGRAM, "exec", "-i", "web", "cat"], stdin=nothing, capture_output=True, env=server.environment(), check=True
        )
    assert plain.stdout == b"end of input\n"


def test_exec_prefers_a_healthy_instance_that_stays(server: CtlServer) -> None:
    server.world.instances["web-3fa9c1-1"].stopping = True
    server.world.instances["web-3fa9c1-2"].observed.health = model_pb2.HEALTH_UNHEALTHY
    assert server.ctl("exec", "web", "exit", "0").stderr == "in web-3fa9c1-3\nerr\n"
    assert server.ctl("exec", "db", "exit", "0").returncode == Exit.REFUSED


def test_exec_whose_stream_vanishes_is_an_error(server: CtlServer) -> None:
    ended = server.ctl("exec", "web", "vanish")
    assert ended.returncode == Exit.FAILED
    assert "ended before the command" in ended.stderr


def _complete(server: CtlServer, *words: str, env: dict[str, str] | None = None) -> list[str]:
    asked = {"_GESTALTCTL_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("gestaltctl", *words)), "COMP_CWORD": str(len(words))}
    ended = server.ctl(env=asked | (env or {}))
    assert ended.stderr == ""
    return [line.partition(",")[2] for line in ended.stdout.splitlines() if line]


def test_completion_of_commands_apps_and_instances(server: CtlServer) -> None:
    assert _complete(server, "rest") == ["restart"]
    assert _complete(server, "scale", "w") == ["web"]
    assert _complete(server, "logs", "web-") == ["web-3fa9c1-1", "web-3fa9c1-2", "web-3fa9c1-3"]
    assert _complete(server, "context", "use", "t") == ["test"]


def test_completion_is_quick_and_silent_when_the_coordinator_hangs(server: CtlServer) -> None:
    server.world.hang = True
    began = time.monotonic()
    assert _complete(server, "scale", "w") == []
    assert time.monotonic() - began < 5
    assert _complete(server, "scale", "w", env={"GESTALT_CONFIG": "/no/such/file"}) == []


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o nosort"), ("zsh", "compdef"), ("fish", "complete --no-files")])
def test_the_completion_scripts(server: CtlServer, shell: str, word: str) -> None:
    ended = server.ctl("completion", shell)
    assert word in ended.stdout
    assert "_GESTALTCTL_COMPLETE" in ended.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=ended.stdout, text=True, check=True)


def test_the_current_context_is_changed_in_its_file(server: CtlServer) -> None:
    file = server.write_config(name="two.yaml")
    file.write_text(file.read_text() + "  other: {coordinators: ['localhost:1'], ca: a, certificate: b, key: c}\n")
    assert server.ctl("context", "use", "other", "--config", str(file)).stdout == "the current context is other\n"
    listed = server.ctl("context", "list", "--config", str(file)).stdout
    assert "*  other    localhost:1" in listed
    assert server.ctl("--config", str(file), "--context", "test", "ps").returncode == Exit.OK


def test_a_reader_that_goes_away_is_no_error(server: CtlServer) -> None:
    for serial in range(4, 2000):
        add_instance(server.world, server.world.apps[WEB], serial)
    line = f"{' '.join(PROGRAM[:1])} -c '{PROGRAM[2]}' ps | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=server.environment(), check=False, timeout=30)
    assert (ended.stderr, ended.returncode) == ("", Exit.BROKEN_PIPE)


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, f"not within 10 s: {what}"
        time.sleep(0.02)
