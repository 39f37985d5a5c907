"""Commands on other machines, through the OpenSSH client of this one: one connection for each host, kept open and shared.

A command reaches the other side as a line for a shell, as ssh has it; `_line` quotes each of its words, and nothing else makes such lines.
"""

from __future__ import annotations

import asyncio
import shlex
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gestalt import shell
from gestalt.errors import GestaltError, Kind

from .hosts_file import HostSettings, SshSettings

CONNECT_LIMIT = 30.0
"""For all that comes before the first word from the other side: addresses, jump hosts, keys."""
_CONNECT_TIMEOUT = 10
_SHARED = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_TIMEOUT}", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")

_HINTS = {
    "Host key verification failed": "its key is not known here, or was another one; log in once by hand and compare it: ssh {there}",
    "Permission denied": "have your key accepted there: ssh-copy-id {there}; with a passphrase, give it to ssh-agent first (ssh-add)",
    "Could not resolve": "correct the name in hosts.yaml (`ssh` or `address`), or make it known",
    "Connection refused": "is sshd running there, on this port? `ssh.port` in hosts.yaml names another one",
    "timed out": "is the machine up, and does a firewall let ssh through? Try it by hand: ssh {there}",
}


_NO_PROGRAM = 127
_TO_BE_ROOT = "let this user run every command there by sudo, and without a password (in /etc/sudoers.d: USER ALL=(root) NOPASSWD: ALL)"


class Remote:
    """A host that we are connected to, as root or as one who becomes root by sudo."""

    def __init__(self, host: HostSettings, options: tuple[str, ...], *, is_root: bool) -> None:
        self.host = host
        self._options = options
        self._before = () if is_root else ("sudo", "-n", "--")

    async def run(self, *argv: str, stdin: bytes = b"", limit: float = 60.0) -> shell.Completed:
        """Run a command as root to its end, whatever that is.

        Raises:
            GestaltError: UNAVAILABLE, when the connection is lost; TIMED_OUT, when the command does not end within `limit` seconds.
        """
        try:
            done = await shell.run(self._words(argv), stdin=stdin, limit=limit)
        except shell.CommandTimedOut as error:
            hint = "it may go on there; look at the machine, then repeat this: what is done is kept"
            raise GestaltError(Kind.TIMED_OUT, f"{argv[0]} did not end within {limit:g} s", hint=hint) from error
        if done.code == _SSH_FAILED:
            raise unusable(self.host, done.complaint())
        return done

    async def start(self, *argv: str) -> Process:
        """Start a command as root that the caller talks to, and ends.

        Raises:
            GestaltError: UNAVAILABLE, when there is no ssh here.
        """
        try:
            return await shell.spawn(self._words(argv), stdin=PIPE, stdout=PIPE, stderr=PIPE)
        except OSError as error:
            raise _no_ssh(error) from error

    def _words(self, argv: Sequence[str]) -> tuple[str, ...]:
        return ("ssh", *self._options, "--", self.host.destination, _line((*self._before, *argv)))

    def disobeyed(self, done: shell.Completed) -> GestaltError:
        """Return the error of a host that did not run what every host can run. What sudo says is in the language of its user."""
        if not self._before or done.code == _SSH_FAILED:
            return unusable(self.host, done.complaint())
        todo = "install sudo there" if done.code == _NO_PROGRAM else _TO_BE_ROOT
        what = f"{self.host.destination} is reached by ssh, and its user is not root and does not become root by `sudo -n`"
        hint = f"{todo}; or connect as root: `ssh.user` in hosts.yaml. Try it: ssh {self.host.destination} sudo -n id -u"
        return GestaltError(Kind.UNAVAILABLE, f"{what}: {done.complaint()}", hint=hint)

    async def do(self, *argv: str, stdin: bytes = b"", limit: float = 60.0) -> str:
        """Run a command that must succeed; return what it printed.

        Raises:
            GestaltError: as `run`; FAILED, with what it said, when it does not succeed.
        """
        done = await self.run(*argv, stdin=stdin, limit=limit)
        if not done.ok:
            raise GestaltError(Kind.FAILED, f"{argv[0]} failed: {done.complaint()}")
        return done.stdout.decode(errors="replace").strip()


_SSH_FAILED = 255


@asynccontextmanager
async def connected(host: HostSettings, settings: SshSettings, socket: Path) -> AsyncIterator[Remote]:
    """Be connected to a host while the block runs.

    Args:
        host: whom to.
        settings: how.
        socket: where the socket of the shared connection is to be: in a private folder, and of a short name.

    Raises:
        GestaltError: UNAVAILABLE, with ssh's own words.
    """
    try:
        # `cat` ends when we do, whatever ends us, and with it the connection
        process = await shell.spawn(first_words(host, settings, socket), stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        raise _no_ssh(error) from error
    try:
        user = user_number(await _first_word(process, host), host)
        yield Remote(host, (*_options(settings), "-o", "ControlMaster=no", "-S", str(socket)), is_root=user == "0")
    finally:
        if process.returncode is None:
            shell.kill_group(process)
        await process.wait()


def first_words(host: HostSettings, settings: SshSettings, socket: Path) -> tuple[str, ...]:
    """Return the command that opens the shared connection. It ends with us, whatever ControlPersist the operator has."""
    ours = ("-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-S", str(socket))
    return ("ssh", *_options(settings), *ours, "--", host.destination, "id -u && exec cat")


def user_number(word: str, host: HostSettings) -> str:
    """Return the number of the user that we are there: the first that the other side says.

    Raises:
        GestaltError: UNAVAILABLE, when something else came first: what commands answer there could not be told from it.
    """
    if not (word.isascii() and word.isdigit()):
        said = f"a login shell that is asked for one command says something else first: {word[:100]!r}"
        hint = f"have it greet on terminals only (~/.bashrc and the like); try it: ssh {host.destination} id -u"
        raise GestaltError(Kind.UNAVAILABLE, f"{host.destination} cannot be used by ssh: {said}", hint=hint)
    return word


async def _first_word(process: Process, host: HostSettings) -> str:
    """Wait until the other side answers; return its first line."""
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            if word := (await process.stdout.readline()).decode(errors="replace").strip():
                return word
            said = (await process.stderr.read()).decode(errors="replace").strip()
    except TimeoutError:
        said = f"Connection timed out: nothing came back within {CONNECT_LIMIT:g} s"
    raise unusable(host, said)


def _no_ssh(error: OSError) -> GestaltError:
    return GestaltError(Kind.UNAVAILABLE, f"ssh cannot be started: {error}", hint="install the package openssh-clients")


def unusable(host: HostSettings, said: str) -> GestaltError:
    """Return the error of a host that ssh does not reach, with ssh's own words and what to do."""
    there = host.destination
    hint = next((text for words, text in _HINTS.items() if words in said), "try it by hand: ssh {there}").format(there=there)
    return GestaltError(Kind.UNAVAILABLE, f"{there} cannot be used by ssh: {said or 'it said nothing'}", hint=hint)


def _options(settings: SshSettings) -> tuple[str, ...]:
    given = (("-F", settings.config), ("-l", settings.user), ("-p", settings.port), ("-i", settings.identity))
    return (*_SHARED, *(word for option, value in given if value is not None for word in (option, str(value))))


def _line(argv: Sequence[str]) -> str:
    """Return words as a line of which a POSIX shell makes the same words again."""
    return shlex.join(argv)
