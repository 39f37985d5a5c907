"""The life of a daemon: command line, signals, systemd's signs of life, orderly stop, and a watch on the event loop.

A daemon's `main` is one call:

    def main() -> int:
        return daemon_command("gestalt-agent", AgentSettings, Path("/etc/gestalt/agent.yaml"), start_agent)

Signal handlers only set a flag; the loop below reads it.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from gestalt import __version__, sd_notify
from gestalt.errors import GestaltError, Kind
from gestalt.event_loop import Loop
from gestalt.log import setup_logging
from gestalt.owner import become, owner_of_unit
from gestalt.settings_source import Renewal, Source

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIG = 78
"""The settings are wrong; systemd does not restart a daemon that ends so (`RestartPreventExitStatus=78`)."""
EXIT_NO_CONFIG = 66
"""Settings cannot be read, so nothing is known about them. systemd starts such a daemon again: it may be otherwise then."""

STOP_LIMIT = 30.0
LAG_ALLOWED = 0.05
_LAG_PERIOD = 0.25
_WATCH_PERIOD = 1.0
_SIGN_PERIOD = 1.0
_INSIST_FIRST, _INSIST_MAX = 0.05, 2.0
READ_LIMIT = 5.0
"""Seconds for which settings that cannot be read are tried again at a start: what they lie on may be mounted in a moment."""
_READ_AGAIN = 0.5

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


class Service(ABC, Generic[S_contra]):
    """A daemon at work."""

    @abstractmethod
    async def reload(self, settings: S_contra) -> None:
        """Take over new settings, which differ from the last ones in fields that are marked as live only. An error keeps the old ones."""

    @abstractmethod
    async def stop(self) -> None:
        """End in order. Called once; cut off after STOP_LIMIT."""


class Life:
    """What a service tells its daemon."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._interval = sd_notify.watchdog_interval()
        self._pinged = 0.0
        self.stop_wanted = False
        self.stop_insisted = asyncio.Event()
        self.reload_wanted = False
        self.dead = ""
        self._standing = {"service": "", "settings": ""}
        self._has_said = False
        self._telling: asyncio.Task[None] | None = None

    def say(self, sentence: str) -> None:
        """Have `systemctl status` say how the service stands, beside what there is about its settings."""
        self._standing["service"], self._has_said = sentence, True
        sd_notify.notify(self._status())

    def ready(self, settings: str | None = None) -> None:
        """Tell systemd that the daemon works, again and again until that is taken: without it a start, or a reload, counts as failed.

        Args:
            settings: what `systemctl status` is to say of them from now on; None = as before.
        """
        if settings is not None:
            self._standing["settings"] = settings
        self.hush()
        self._telling = asyncio.create_task(self._insist(), name="ready")

    def hush(self) -> None:
        """Do not tell any more that it works."""
        if self._telling is not None:
            self._telling.cancel()

    async def _insist(self) -> None:
        pause = _INSIST_FIRST
        while not sd_notify.notify("READY=1", *((self._status(),) if any(self._standing.values()) or self._has_said else ())):
            await asyncio.sleep(pause)
            pause = min(pause * 2, _INSIST_MAX)
        self._has_said = any(self._standing.values())

    def _status(self) -> str:
        return "STATUS=" + "; ".join(part for part in self._standing.values() if part)

    def worked(self) -> None:
        """A cycle did its work: feed systemd's watchdog. Not to be called by a cycle that failed, nor by a timer that asks for nothing."""
        now = time.monotonic()
        if self._interval and now - self._pinged >= self._interval / 4:
            self._pinged = now
            sd_notify.notify("WATCHDOG=1")

    async def tell_alive(self, works: Callable[[], bool]) -> None:
        """Feed systemd's watchdog for ever, from a task on the loop: not while the loop hangs, and not while `works` says no."""
        while True:
            if works():
                self.worked()
            await asyncio.sleep(min(self._interval / 4, _SIGN_PERIOD) or _SIGN_PERIOD)

    def die(self, reason: str) -> None:
        """End the daemon as failed: it cannot do its work any more."""
        self.dead = self.dead or reason
        self._changed.set()

    def ask_stop(self) -> None:
        """End the daemon in order; asked a second time, at once."""
        if self.stop_wanted:
            self.stop_insisted.set()
        self.stop_wanted = True
        self._changed.set()

    def ask_reload(self) -> None:
        """Read the settings again."""
        self.reload_wanted = True
        self._changed.set()

    async def wait(self) -> None:
        """Return when one of the flags above was set since the last call."""
        await self._changed.wait()
        self._changed.clear()


Build = Callable[[S, Life], Awaitable[Service[S]]]
"""Starts the service; returns when it can do its work. Cancelled when the daemon is to stop before that."""


def load_model(path: Path, kind: type[S]) -> S:
    """Read settings whose model is one of `gestalt.config`. Imported late: not every daemon has room for pydantic."""
    from gestalt.settings_file import load_settings

    return cast(S, load_settings(path, cast(Any, kind)))


@dataclass(frozen=True, slots=True)
class Subcommand:
    """What a daemon's program does besides being the daemon, for its help: the word, what it does, and its arguments in an example."""

    word: str
    does: str
    example: str


def daemon_command(
    name: str,
    kind: type[S],
    default: Path,
    build: Build[S],
    argv: Sequence[str] | None = None,
    *,
    load: Callable[[Path, type[S]], S] = load_model,
    others: Sequence[Subcommand] = (),
) -> int:
    """Be the daemon `name`: read the command line and the settings, run to the end, return the exit code.

    Args:
        name: of the program.
        kind: of its settings.
        default: where they are.
        build: starts the service.
        argv: the arguments; None = those of the process.
        load: reads the settings; raises GestaltError when they are not good.
        others: what the program does with a first word, which its `main` has looked for already.
    """
    options = _parser(name, default, others).parse_args(argv)

    def read() -> S:
        return load(options.config, kind)

    # What root may read, the user may not who is to read it.
    user = become(owner_of_unit(name)) if options.check_config and options.config == default else ""
    try:
        source = _first_source(name, options.config, read, 0.0 if options.check_config else READ_LIMIT)
        if options.check_config:
            sys.stdout.write("" if options.quiet else _checked(options.config, source.settings, user))
            return EXIT_OK
    except GestaltError as error:
        looked = f"looked at as the user {user}, who is to read it\n" if user else ""
        sys.stderr.write(f"{name}: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "") + looked)
        is_missing = not (options.check_config or os.path.lexists(options.config))  # it will not come by itself
        return EXIT_NO_CONFIG if error.kind is Kind.NOT_FOUND and not is_missing else EXIT_CONFIG
    _set_up_logging(name, source.settings)
    return run_daemon(name, build, source)


def _first_source(name: str, path: Path, read: Callable[[], S], limit: float) -> Source[S]:
    """Return the settings; those that are there and cannot be read are tried again for `limit` seconds."""
    deadline, told = time.monotonic() + limit, ""
    while True:
        try:
            return Source(path, read)
        except GestaltError as error:
            if error.kind is not Kind.NOT_FOUND or not os.path.lexists(path) or time.monotonic() >= deadline:
                raise
            if error.message != told:
                sys.stderr.write(f"{name}: {error.message}; tried again for {limit:g} s\n")
            told = error.message
        time.sleep(_READ_AGAIN)


def _checked(path: Path, settings: object, user: str) -> str:
    """Return what `--check-config` says of good settings. `user`: as whom they were read, where that is not ours."""
    from gestalt.credentials import told
    from gestalt.settings_document import passed_over, read_document
    from gestalt.settings_shown import flat, named, sources

    document = read_document(path, "")
    good = f"{path} is good, and can be read by the user {user}" if user else f"{path} is good"
    return (
        f"{good}. Its settings, and where each comes from (times in seconds, sizes in bytes):\n"
        + sources(settings, document)
        + told((named(place), value) for place, value in flat(settings).items())
        + "".join(f"read as drop-in: {file}\n" for file in document.drop_ins)
        + "".join(f"not read, as its name does not end in .yaml: {file}\n" for file in passed_over(path))
    )


def _parser(name: str, default: Path, others: Sequence[Subcommand]) -> argparse.ArgumentParser:
    options = "[--config FILE] [--check-config [--quiet]]"
    commands = [f"  {other.word:<8}{other.does}" for other in others]
    examples = [
        f"  {name} --check-config",
        f"  {name} --check-config --quiet && systemctl reload {name}",
        *(f"  {name} {other.word} {other.example}" for other in others),
    ]
    parser = argparse.ArgumentParser(
        prog=name,
        usage="\n       ".join([f"{name} {options}", *(f"{name} {other.word} …" for other in others)]),
        description="A daemon of Gestalt; it stays in the foreground. systemd starts it.",
        epilog="\n".join(
            [
                *(["commands, instead of being the daemon (each has a --help):", *commands, ""] if others else []),
                *_about_settings(default),
                "",
                "examples:",
                *examples,
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=default, metavar="FILE", help="settings (default: %(default)s)")
    parser.add_argument("--check-config", action="store_true", help="say whether the settings are good and where each comes from, and end")
    parser.add_argument("--quiet", action="store_true", help="with --check-config: say nothing when they are good")
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return parser


def _about_settings(default: Path) -> list[str]:
    return [
        "settings:",
        f"  drop-ins beside the file, {default.with_suffix('.d')}/*.yaml, are read after it, in the order of their",
        "  names; the last word counts. --check-config ends with 0 when all is good, with 78 when",
        "  something is wrong, with 66 when a file cannot be read, and starts nothing. Drop-ins are",
        "  watched; SIGHUP (systemctl reload) reads all again. What is wrong is refused, and the old",
        "  settings stay. The log says of each setting whether it was taken over or needs a restart.",
    ]


def run_daemon(name: str, build: Build[S], source: Source[S]) -> int:
    """Run a service until it is told to stop or dies; return the exit code."""
    faulthandler.enable(file=2)  # systemd ends one that hangs by SIGABRT: the log then says where
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(_live(name, build, source))


async def _live(name: str, build: Build[S], source: Source[S]) -> int:
    life = Life()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.ask_stop)
    loop.add_signal_handler(signal.SIGHUP, life.ask_reload)
    lag, drop_ins = asyncio.create_task(watch_loop(), name="loop lag"), asyncio.create_task(_watch(source, life), name="settings")
    log.info("%s %s starts", name, __version__)
    try:
        service = await _start(build(source.settings, life), life)
        if service is None:
            log.info("%s was stopped before it was ready", name)
            return EXIT_OK
        life.ready()
        log.info("%s is ready", name)
        await _serve(name, service, life, source)
        drop_ins.cancel()
        return await _stop(name, service, life)
    except GestaltError as error:
        log.error("%s cannot go on: %s%s", name, error.message, f" ({error.hint})" if error.hint else "")
        return EXIT_CONFIG if error.kind is Kind.INVALID else EXIT_FAILED
    finally:
        for monitor in (lag, drop_ins):
            monitor.cancel()


async def _start(building: Awaitable[Service[S]], life: Life) -> Service[S] | None:
    """Return the started service, or None when the daemon was told to stop meanwhile."""
    starting = asyncio.ensure_future(building)
    while not starting.done():
        asked = asyncio.ensure_future(life.wait())
        await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if life.stop_wanted and not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            return None if starting.cancelled() else starting.result()
    return starting.result()


async def _serve(name: str, service: Service[S], life: Life, source: Source[S]) -> None:
    while not (life.stop_wanted or life.dead):
        if life.reload_wanted:
            life.reload_wanted = False
            await _reload(name, service, source, life)
        await life.wait()


async def _watch(source: Source[S], life: Life) -> None:
    """Ask for a reload when drop-ins have changed. To look sees more than to be told: through links and mounts, too."""
    while True:
        await asyncio.sleep(_WATCH_PERIOD)
        if source.is_due():
            log.info("the drop-ins of %s have changed", source.path)
            life.ask_reload()


async def _reload(name: str, service: Service[S], source: Source[S], life: Life) -> None:
    """Take over what can be; `systemctl status` then says what was refused, or waits for a restart."""
    sd_notify.reloading()
    status = "the settings were refused, the old ones stay"
    try:
        renewal = _renew(source)
        await service.reload(renewal.settings)
    except GestaltError as error:
        log.error("%s: %s%s", status, error.message, f" ({error.hint})" if error.hint else "")
    else:
        _set_up_logging(name, renewal.settings)
        status = source.taken(name, renewal)
    finally:
        life.ready(status)


def _renew(source: Source[S]) -> Renewal[S]:
    """Read the settings anew. Whatever happens at that is a refusal, not the end of a daemon that works."""
    try:
        return source.renew()
    except GestaltError:
        raise
    except Exception as error:
        log.exception("%s and its drop-ins could not be read", source.path)
        problem = f"{source.path}, or one of its drop-ins, cannot be read: {type(error).__name__}: {error}"
        raise GestaltError(Kind.INVALID, problem, hint="take back the last change; what went wrong is above in the log") from error


async def _stop(name: str, service: Service[S], life: Life) -> int:
    """Stop in order within STOP_LIMIT; a second signal to stop cuts it short, and nothing else does."""
    life.hush()
    sd_notify.notify("STOPPING=1")
    log.info("%s stops%s", name, f": {life.dead}" if life.dead else "")
    stopping = asyncio.ensure_future(service.stop())
    again = asyncio.ensure_future(life.stop_insisted.wait())
    await asyncio.wait((stopping, again), timeout=STOP_LIMIT, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not stopping.done():
        stopping.cancel()
        await asyncio.wait((stopping,), timeout=1)
        log.error("%s did not stop in order and was cut short", name)
        return EXIT_FAILED
    stopping.result()
    log.info("%s has stopped", name)
    return EXIT_FAILED if life.dead else EXIT_OK


async def watch_loop(allowed: float = LAG_ALLOWED) -> None:
    """Log whenever the event loop was held up for more than `allowed` seconds, and how much of it was our own work."""
    loop = asyncio.get_running_loop()
    while True:
        due, work = loop.time() + _LAG_PERIOD, time.thread_time()
        await asyncio.sleep(_LAG_PERIOD)
        lag = loop.time() - due
        if lag > allowed:
            log.warning("the event loop was blocked for %.0f ms (%.0f ms of it by work)", lag * 1000, (time.thread_time() - work) * 1000)


def _set_up_logging(name: str, settings: Any) -> None:
    setup_logging(str(getattr(settings, "log_level", "info")), name, str(getattr(settings, "node_name", "")))
