"""gestaltctl on a terminal: a real pty as its controlling terminal, a real coordinator behind."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import termios
import time
from types import TracebackType

import pytest

from gestalt.ctl.exits import Exit
from tests.real.ctl_server import PROGRAM, WEB, CtlServer, add_app, add_instance

pytestmark = pytest.mark.real

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class OnTerminal:
    """gestaltctl with a pty as its controlling terminal; `shown` is everything it wrote so far."""

    def __init__(self, server: CtlServer, *args: str, columns: int = 120, env: dict[str, str] | None = None) -> None:
        self.master, self.slave = os.openpty()
        termios.tcsetwinsize(self.slave, (40, columns))
        self.before = termios.tcgetattr(self.slave)
        self.shown = ""
        environment = server.environment() | {"TERM": "xterm-256color"} | (env or {})
        plain = ("setsid", "--ctty", "env", "--default-signal=INT,HUP")  # whoever started us may ignore them, as nohup does
        self.process = subprocess.Popen([*plain, *PROGRAM, *args], stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environment)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.master, (rows, columns))

    def until(self, text: str) -> None:
        """Return when `text` has been shown."""
        end = time.monotonic() + 15
        while text not in self.plain:
            assert time.monotonic() < end, f"{text!r} was not shown, but {self.shown!r}"
            assert self._read(0.2) or self.process.poll() is None, f"it ended with {self.process.poll()}: {self.shown!r}"

    def interrupt(self) -> None:
        """Press Ctrl-C; again when it hit CPython just between writing a prompt and reading the answer, where it is lost."""
        for _ in range(5):
            self.type("\x03")
            end = time.monotonic() + 2
            while time.monotonic() < end:
                if self.process.poll() is not None:
                    return
                self._read(0.05)

    def end(self) -> int:
        """Return the exit code, once it ended and all is read."""
        end = time.monotonic() + 15
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.shown!r}"
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    @property
    def plain(self) -> str:
        return _ESCAPES.sub("", self.shown)

    @property
    def mode_is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def _read(self, limit: float) -> bool:
        if not select.select([self.master], [], [], limit)[0]:
            return False
        self.shown += os.read(self.master, 65536).decode(errors="replace")
        return True


def test_tables_have_colours_and_keep_their_columns(server: CtlServer) -> None:
    with OnTerminal(server, "ps", columns=160) as terminal:
        assert terminal.end() == Exit.OK
    assert "\x1b[32mrunning" in terminal.shown
    assert "\x1b[31mfailed" in terminal.shown
    assert "web-3fa9c1-3  /shop/main/prod/web  " in terminal.plain


def test_a_table_that_cannot_fit_is_shortened_not_broken(server: CtlServer) -> None:
    with OnTerminal(server, "ps", "web", columns=80) as terminal:
        assert terminal.end() == Exit.OK
    assert len(terminal.plain.splitlines()) == 4
    assert all(len(line) <= 80 for line in terminal.plain.splitlines())


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_refused(server: CtlServer, env: dict[str, str]) -> None:
    for args in (["ps"], ["status"], ["inspect", "db"], ["history", "web"], ["logs", "web"]):
        with OnTerminal(server, *args, env=env) as terminal:
            terminal.end()
        assert not re.search(r"\x1b\[3\dm", terminal.shown), terminal.shown


def test_an_error_is_red_and_the_hint_is_not(server: CtlServer) -> None:
    with OnTerminal(server, "scale", "/broken/conflict", "1") as terminal:
        assert terminal.end() == Exit.CONFLICT
    assert terminal.shown.startswith("\x1b[31merror:\x1b[0m this app is broken\r\n")


def test_what_an_app_wrote_cannot_steer_the_terminal(server: CtlServer) -> None:
    server.world.instances["db-77aa01-1"].observed.log_tail.append("\x1b]0;owned\x07\x1b[2J")
    server.world.instances["db-77aa01-1"].observed.reason = "\x1b[2Jgone"
    for args in (["inspect", "db"], ["ps"]):
        with OnTerminal(server, *args, columns=200) as terminal:
            terminal.end()
        assert "\x1b]" not in terminal.shown
        assert "\x1b[2J" not in terminal.shown


def test_progress_is_a_live_view_that_stays(server: CtlServer) -> None:
    with OnTerminal(server, "scale", "web", "5") as terminal:
        assert terminal.end() == Exit.OK
    last = terminal.plain[terminal.plain.rindex("scale /shop/main/prod/web") :]
    assert "2 of 2 instances are healthy" in last
    assert "✓ place 2/2" in last
    assert "web-00beef-1  node1  running  healthy" in last
    assert "\x1b[?25l" in terminal.shown
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert "task 0001" not in terminal.plain


def test_the_live_view_shows_no_more_instances_than_fit(server: CtlServer) -> None:
    add_app(server.world, "/x/endless", count=1)
    with OnTerminal(server, "restart", "/x/endless", "--timeout", "1s") as terminal:
        terminal.until("starting")
        for number in range(100):
            server.world.tasks["0001-restart"].instances.add(instance=f"endless-00beef-{number + 2}", node="node1")
        terminal.until("more")
        assert terminal.end() == Exit.TIMED_OUT


def test_ctrl_c_leaves_the_live_view_in_order(server: CtlServer) -> None:
    add_app(server.world, "/x/endless", count=1)
    with OnTerminal(server, "restart", "/x/endless") as terminal:
        terminal.until("starting")
        terminal.type("\x03")
        assert terminal.end() == Exit.INTERRUPTED
        assert terminal.mode_is_as_before
    assert "detached; the restart of /x/endless goes on: gestaltctl tasks 0001-restart --watch\r\n" in terminal.plain
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert "Traceback" not in terminal.plain


def test_a_signal_gives_the_cursor_back(server: CtlServer) -> None:
    add_app(server.world, "/x/endless", count=1)
    with OnTerminal(server, "restart", "/x/endless") as terminal:
        terminal.until("starting")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("answer", "code", "asked"),
    [("y\n", Exit.OK, True), ("\n", Exit.REFUSED, False), ("n\n", Exit.REFUSED, False), ("\x03", Exit.INTERRUPTED, False)],
)
def test_delete_asks_first_and_no_is_the_default(server: CtlServer, answer: str, code: Exit, asked: bool) -> None:
    with OnTerminal(server, "delete", "web") as terminal:
        terminal.until("Delete /shop/main/prod/web, with its versions and all its instances? [y/N]")
        terminal.interrupt() if answer == "\x03" else terminal.type(answer)
        assert terminal.end() == code, terminal.shown
    assert bool(server.world.tasks) == asked


def test_exec_is_a_terminal_on_the_other_side(server: CtlServer) -> None:
    with OnTerminal(server, "exec", "-it", "web-3fa9c1-1", "sh") as terminal:
        terminal.until("size 40x120")
        opening = server.world.exec_inputs[0].open
        assert (opening.tty, opening.env["TERM"]) == (True, "xterm-256color")
        terminal.type("\x03\x04é")
        terminal.until("<\x03\x04é>")
        terminal.resize(50, 132)
        terminal.until("size 50x132")
        assert not terminal.mode_is_as_before
        terminal.type("q")
        assert terminal.end() == 3
        assert terminal.mode_is_as_before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_exec_gives_the_terminal_back_when_it_is_ended(server: CtlServer, number: signal.Signals) -> None:
    with OnTerminal(server, "exec", "-it", "web-3fa9c1-1", "sh") as terminal:
        terminal.until("size 40x120")
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert terminal.mode_is_as_before
    assert "Traceback" not in terminal.plain


def test_exec_gives_the_terminal_back_when_the_coordinator_goes(server: CtlServer) -> None:
    with OnTerminal(server, "exec", "-it", "web-3fa9c1-1", "sh") as terminal:
        terminal.until("size 40x120")
        server.stop()
        try:
            assert terminal.end() == Exit.UNREACHABLE
        finally:
            server.start()
        assert terminal.mode_is_as_before


def test_ctrl_c_ends_following_without_a_word_too_many(server: CtlServer) -> None:
    for args in (["logs", "-f", "web"], ["events", "-f", "--after", "0"]):
        with OnTerminal(server, *args) as terminal:
            terminal.until("I go on" if args[0] == "logs" else "instance.failed")
            terminal.type("\x03")
            assert terminal.end() == Exit.INTERRUPTED
        assert "Traceback" not in terminal.plain
        assert "error" not in terminal.plain


def test_each_instance_has_its_colour(server: CtlServer) -> None:
    add_instance(server.world, server.world.apps[WEB], 4)
    with OnTerminal(server, "logs", "web") as terminal:
        assert terminal.end() == Exit.OK
    assert re.search(r"\x1b\[3\dmweb-3fa9c1-1\x1b\[0m  one", terminal.shown)
