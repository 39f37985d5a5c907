"""What the pure parts of the Docker driver make of the Engine's words."""

from __future__ import annotations

import pytest

from gestalt.plugin.runtime import AttemptKey, AttemptState, DriverUnavailable, LaunchRefused
from gestalt.plugins.runtime.docker_credentials import Reference
from gestalt.plugins.runtime.docker_logs import LineAssembler
from gestalt.plugins.runtime.docker_pull import PullProgress, pull_error
from gestalt.plugins.runtime.docker_refusal import clean, refusal
from gestalt.plugins.runtime.docker_status import from_inspect, from_summary

LABELS = {"gestalt.instance": "web-1", "gestalt.attempt": "2", "gestalt.app": "/a/b/c/web", "gestalt.template": "t"}
ENDPOINT = "driver failed programming external connectivity on endpoint gestalt-1-web-1 (0a1b2c): "


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (
            'OCI runtime create failed: container_linux.go:380: starting container process caused: exec: "/x": no such file: unknown',
            'exec: "/x": no such file',
        ),
        (
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: x: unknown",
            "x",
        ),
        ("plain sentence", "plain sentence"),
        ("two\nlines", "two lines"),
    ],
)
def test_the_names_of_layers_are_left_out(said: str, understood: str) -> None:
    assert clean(said) == understood


@pytest.mark.parametrize(
    ("said", "port"),
    [
        (ENDPOINT + "Bind for 127.0.0.1:3001 failed: port is already allocated", "host port 3001 of 127.0.0.1"),
        (
            ENDPOINT + "Error starting userland proxy: listen tcp4 127.0.0.1:3001: bind: address already in use",
            "host port 3001 of 127.0.0.1",
        ),
        (ENDPOINT + "failed to bind host port for 10.0.0.7:3001:172.17.0.2:80/tcp: address already in use", "a host port"),
        ("Ports are not available: listen udp [::1]:53: bind: address already in use", "host port 53 of [::1]"),
    ],
)
def test_a_taken_port_is_named(said: str, port: str) -> None:
    error = refusal(said)
    assert isinstance(error, LaunchRefused)
    assert str(error).startswith(f"{port} is taken by something else on this node")


@pytest.mark.parametrize(
    "said",
    [
        "failed to create endpoint x on network bridge: adding interface veth to bridge docker0 failed: could not find bridge docker0",
        ENDPOINT + "(iptables failed: iptables --wait -t nat -A DOCKER: No chain/target/match by that name",
        "write /var/lib/docker/x: no space left on device",
        "OCI runtime create failed: context deadline exceeded: unknown",
        "No such container: 0a1b",
    ],
)
def test_what_passes_is_tried_again(said: str) -> None:
    assert isinstance(refusal(said), DriverUnavailable)


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        ("manifest for r:5/x:1 not found: manifest unknown: manifest unknown", LaunchRefused, "there is no image r:5/x:1"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", LaunchRefused, "does not let us pull"),
        ('Get "http://r:5/v2/": no basic auth credentials', LaunchRefused, "does not let us pull"),
        ('Get "http://r:5/v2/": dial tcp 127.0.0.1:5: connect: connection refused', DriverUnavailable, "does not answer"),
        ('Get "https://r:5/v2/": dial tcp: lookup r: no such host', DriverUnavailable, "does not answer"),
        ('Get "https://r:5/v2/": http: server gave HTTP response to HTTPS client', LaunchRefused, "does not trust"),
        ("toomanyrequests: You have reached your pull rate limit", DriverUnavailable, "toomanyrequests"),
    ],
)
def test_errors_of_a_pull(said: str, kind: type[Exception], sentence: str) -> None:
    error = pull_error(Reference("r:5/x", "1"), said, with_credentials=False)
    assert isinstance(error, kind)
    assert sentence in str(error)


@pytest.mark.parametrize(
    ("text", "reference", "registry"),
    [
        ("nginx", Reference("nginx", "latest"), "docker.io"),
        ("library/nginx:1.2", Reference("library/nginx", "1.2"), "docker.io"),
        ("localhost/x", Reference("localhost/x", "latest"), "localhost"),
        ("r.example:5000/a/b:v1", Reference("r.example:5000/a/b", "v1"), "r.example:5000"),
        ("r.example:5000/a/b", Reference("r.example:5000/a/b", "latest"), "r.example:5000"),
        ("r.example/a:v1@sha256:00", Reference("r.example/a", "", "sha256:00"), "r.example"),
    ],
)
def test_references(text: str, reference: Reference, registry: str) -> None:
    assert Reference.parse(text) == reference
    assert Reference.parse(text).registry == registry
    assert Reference.parse(str(reference)) == reference


def test_progress_adds_up_over_layers() -> None:
    progress = PullProgress(Reference("x", "1"))
    assert progress.feed({"status": "Pulling from x", "id": "1"}) == "pulling x:1"
    progress.feed({"status": "Pulling fs layer", "id": "aa"})
    progress.feed({"status": "Already exists", "id": "bb"})
    downloading = {"status": "Downloading", "id": "aa", "progressDetail": {"current": 512 * 1024, "total": 1024 * 1024}}
    assert progress.feed(downloading) == "pulling x:1: 50 % of 1MiB, 1 of 2 layers"
    progress.feed({"status": "Download complete", "id": "aa"})
    assert progress.feed({"status": "Pull complete", "id": "aa"}) == "pulling x:1: 100 % of 1MiB, 2 of 2 layers"


def test_the_list_tells_state_health_and_address() -> None:
    summary = {"Id": "i", "Labels": LABELS, "State": "running", "Status": "Up 3 minutes (health: starting)"}
    status = from_summary({**summary, "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.9"}}}})
    assert status is not None
    assert (status.key, status.state, status.health, status.address) == (
        AttemptKey("web-1", 2),
        AttemptState.RUNNING,
        "starting",
        "172.17.0.9",
    )
    paused = from_summary({**summary, "State": "paused", "Status": "Up 3 minutes (Paused)"})
    assert paused is not None
    assert (paused.state, paused.health, paused.address) == (AttemptState.RUNNING, "", "")
    assert from_summary({**summary, "Labels": {"gestalt.instance": "web-1", "gestalt.attempt": "x"}}) is None


def test_a_running_container_has_no_exit_code_yet() -> None:
    state = {"Status": "running", "ExitCode": 0, "OOMKilled": True, "Pid": 7}
    status = from_inspect({"Id": "i", "Config": {"Labels": LABELS}, "State": state})
    assert status is not None
    assert (status.exit_code, status.oom_killed, status.pid) == (None, False, 7)


@pytest.mark.parametrize("timestamps", [False, True])
def test_lines_are_put_together_per_stream(timestamps: bool) -> None:
    def stamp(data: bytes, second: int) -> bytes:
        return (b"2026-01-01T00:00:0%d.000000000Z " % second if timestamps else b"") + data

    lines = LineAssembler(timestamps)
    assert lines.feed(False, stamp(b"one ", 1)) is None
    other = lines.feed(True, stamp(b"err\n", 2))
    line = lines.feed(False, stamp(b"line\n", 3))
    assert other is not None
    assert line is not None
    assert (other.stderr, other.data) == (True, stamp(b"err\n", 2))
    assert (line.stderr, line.data) == (False, stamp(b"one line\n", 1))
    assert lines.feed(False, stamp(b"rest", 4)) is None
    assert [rest.data for rest in lines.rest()] == [stamp(b"rest", 4)]


def test_a_line_without_end_does_not_eat_the_memory() -> None:
    lines = LineAssembler(timestamps=False)
    pieces = [line for line in (lines.feed(False, b"x" * 16384) for _ in range(200)) if line]
    assert [len(piece.data) for piece in pieces] == [1024 * 1024] * 3
