"""Replaced HAProxy workers, against a master that says what it is told to say; the workers are real processes."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gestalt.plugins.loadbalancer.haproxy_replaced import ReplacedWorkers

LISTENS = b"Stopping: 1\nListeners: 2\nUnstoppable Jobs: 1\n"
STOPPED = b"Stopping: 1\nListeners: 1\nUnstoppable Jobs: 1\n"
SILENCE = b""

Answers = Callable[[int], bytes]
"""What a worker says to its first question, its second …"""


class Master:
    """Answers in a thread of its own, so that the loop can be held up meanwhile. Its old workers are those of `says`."""

    def __init__(self, folder: Path) -> None:
        self.socket, self.config = folder / "master.sock", folder / "haproxy.cfg"
        self.config.touch()
        self.says: dict[int, Answers] = {}
        self.asked: dict[int, int] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(50)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def worker(self, says: Answers) -> int:
        """Start a process that looks like a worker of ours."""
        process = subprocess.Popen(["haproxy", "-f", str(self.config)], executable="/usr/bin/tail", stdout=subprocess.DEVNULL)
        self._processes[process.pid] = process
        self.says[process.pid], self.asked[process.pid] = says, 0
        return process.pid

    def was_ended(self, pid: int) -> bool:
        return self._processes[pid].poll() == -signal.SIGKILL

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                question = connection.recv(4096, socket.MSG_PEEK)
                answer = self._answer(question.decode())
                if answer:  # whoever closes without having read resets the connection
                    connection.recv(4096)
                    connection.sendall(answer)

    def _answer(self, question: str) -> bytes:
        if question == "show proc\n":
            old = "".join(f"{pid} worker 1 0d 2.6\n" for pid in self.says)
            return f"#<PID> <type> <reloads> <uptime> <version>\n1 master 1 0d 2.6\n# old workers\n{old}# programs\n".encode()
        pid = int(question.removeprefix("@!").removesuffix(" show info\n"))
        self.asked[pid] += 1
        return self.says[pid](self.asked[pid])


@pytest.fixture
def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Master]:
    monkeypatch.setattr("gestalt.plugins.loadbalancer.haproxy_replaced._LIMIT", 0.3)
    made = Master(tmp_path)
    yield made
    made.close()


def in_turn(*answers: bytes) -> Answers:
    """The last one for ever."""
    return lambda number: answers[min(number, len(answers)) - 1]


async def test_an_agent_that_is_held_up_past_the_limit_ends_no_worker_that_has_stopped_listening(master: Master) -> None:
    loop, begun, over = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def hold_up() -> None:
        begun.set()
        over.wait(3.2)  # longer than a question may take

    def says(number: int) -> bytes:
        if number == 1:
            loop.call_soon_threadsafe(hold_up)
            assert begun.wait(5)
        return STOPPED

    pid = master.worker(says)
    await ReplacedWorkers(master.socket, master.config).settle()
    assert not master.was_ended(pid)
    assert master.asked[pid] == 2, "it was asked afresh, since its first answer came to nobody"


@pytest.mark.parametrize("answer", [LISTENS, SILENCE])
async def test_a_worker_that_listens_or_is_silent_for_good_is_ended(master: Master, answer: bytes) -> None:
    pid, other = master.worker(in_turn(answer)), master.worker(in_turn(STOPPED))
    async with asyncio.timeout(10):
        await ReplacedWorkers(master.socket, master.config).settle()
    assert master.was_ended(pid)
    assert not master.was_ended(other)


@pytest.mark.parametrize("answer", [LISTENS, SILENCE])
async def test_one_look_after_the_limit_ends_nobody(master: Master, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """As after a pause of the whole machine: the limit has passed, and the worker comes to its signal only now."""
    monkeypatch.setattr("gestalt.plugins.loadbalancer.haproxy_replaced._LIMIT", -1.0)
    pid = master.worker(in_turn(answer, STOPPED))
    await ReplacedWorkers(master.socket, master.config).settle()
    assert not master.was_ended(pid)
    assert master.asked[pid] == 2


async def test_a_worker_that_said_that_it_does_not_listen_is_never_asked_again(master: Master) -> None:
    pid, other = master.worker(in_turn(STOPPED, SILENCE)), master.worker(in_turn(LISTENS, LISTENS, STOPPED))
    replaced = ReplacedWorkers(master.socket, master.config)
    await replaced.settle()
    replaced.expect((pid, other))
    await replaced.settle()
    assert not master.was_ended(pid)
    assert master.asked == {pid: 1, other: 3}


async def test_a_number_that_has_become_another_workers_is_asked(master: Master) -> None:
    pid = master.worker(in_turn(STOPPED))
    replaced = ReplacedWorkers(master.socket, master.config)
    await replaced.settle()
    replaced.expect(())
    await replaced.settle()
    assert master.asked == {pid: 2}
