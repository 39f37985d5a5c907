"""What the steps do to a machine: their scripts, run on this one in a folder of ours."""

from __future__ import annotations

import hashlib
import os
import pwd
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gestalt.bootstrap.actions import ASK, PUT, STALE, TOKENS, WRITE, script
from gestalt.coordinator.members import Asked, check_token, new_token
from gestalt.errors import GestaltError

ME = pwd.getpwuid(os.geteuid()).pw_name


def run(text: str, *arguments: str, stdin: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script; programs in `folder` stand for those of the machine."""
    path = f"{folder}:{os.environ['PATH']}" if folder else os.environ["PATH"]
    return subprocess.run(
        script(text, *arguments), input=stdin, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "PATH": path}
    )


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_file_is_in_place_when_all_of_it_arrived_and_is_on_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "made/zoo.cfg"
    program(tmp_path / "bin", "sync", f'echo "$1" >>{tmp_path}/synced; [ ! -e {file} ]')
    how = (str(file), "640", ME, "once", sha256("a=1\nb=2\n"))
    cut = run(WRITE, *how, stdin="a=1\n", folder=tmp_path / "bin")
    assert (cut.returncode, cut.stderr) == (1, f"what arrived of {file} is not what was sent\n")
    assert not file.exists()
    done = run(WRITE, *how, stdin="a=1\nb=2\n", folder=tmp_path / "bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("a=1\nb=2\n", 0o640)
    assert (tmp_path / "synced").read_text() == f"{file}.part\n"


def test_what_is_sent_is_for_nobody_else_to_read_and_in_place_when_all_arrived(tmp_path: Path) -> None:
    """Whatever the umask that sudo, or the user's login, leaves."""
    folder, sum_of_it = tmp_path / "sent", sha256("content")
    cut = run(f"umask 0\n{PUT}", str(folder), "a.rpm", sum_of_it, stdin="con")
    assert (cut.returncode, cut.stderr) == (1, "what arrived of a.rpm is not what was sent\n")
    assert (folder.stat().st_mode & 0o777, (folder / "a.rpm").exists()) == (0o700, False)
    done = run(f"umask 0\n{PUT}", str(folder), "a.rpm", sum_of_it, stdin="content")
    assert (done.returncode, (folder / "a.rpm").read_text()) == (0, "content")
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


@pytest.mark.parametrize(("there", "how", "after"), [("old", "once", "old"), ("", "once", "new"), ("old", "always", "new")])
def test_what_the_server_itself_changes_is_written_once(tmp_path: Path, there: str, how: str, after: str) -> None:
    file = tmp_path / "myid"
    file.write_text(there)
    assert run(WRITE, str(file), "644", ME, how, sha256("new"), stdin="new").returncode == 0
    assert file.read_text() == after


@contextmanager
def server(answer: str) -> Iterator[int]:
    """Answer the word srvr as a server of ZooKeeper does, on the port that is yielded."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(4) == b"srvr":
                self.request.sendall(answer.encode())

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield int(found.server_address[1])
        found.shutdown()


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        ("Zookeeper version: 3.8\nMode: follower\nNode count: 5\n", 0, ""),
        ("This ZooKeeper instance is not currently serving requests\n", 1, "This ZooKeeper instance is not currently serving requests\n"),
        ("", 1, "nothing\n"),
    ],
)
def test_a_server_serves_when_it_says_in_which_mode(answer: str, code: int, told: str) -> None:
    with server(answer) as port:
        done = run(ASK, "127.0.0.1", str(port))
    assert (done.returncode, done.stderr) == (code, told)
    refused = run(ASK, "127.0.0.1", str(port))
    assert refused.returncode == 1
    assert "Connection refused" in refused.stderr


def test_two_operators_at_once_get_one_token_for_a_machine(tmp_path: Path) -> None:
    """The one that made a second would have the machine refuse what the first was told."""
    program(tmp_path / "bin", "make-token", f'sleep 0.2; echo made >>{tmp_path}/made; echo "token $$" >"$2"')
    ours = TOKENS.replace("/run/", f"{tmp_path}/")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: run(ours, "c.h1.node", "make-token", folder=tmp_path / "bin"), range(2)))
    assert [(done.returncode, done.stderr) for done in answers] == [(0, "")] * 2
    assert answers[0].stdout == answers[1].stdout
    assert (tmp_path / "made").read_text() == "made\n"
    assert run(ours, "other.h1.node", "make-token", folder=tmp_path / "bin").stdout != answers[0].stdout


def test_what_a_coordinator_says_of_a_token_that_another_one_may_replace_is_known_by_its_words() -> None:
    now = datetime.now(UTC)
    token = new_token("t", "secret", "node", 3600, actor="admin", now=now)
    asked = Asked("t", "secret", "node", "id", "h1", "10.0.0.1")
    for refused, at in ((replace(token, used_by="other"), now), (None, now), (token, now + timedelta(days=2))):
        with pytest.raises(GestaltError) as caught:
            check_token(refused, asked, at)
        assert [words for words in STALE if words in caught.value.message], caught.value.message
    with pytest.raises(GestaltError) as caught:
        check_token(token, replace(asked, purpose="coordinator"), now)
    assert not [words for words in STALE if words in caught.value.message]
