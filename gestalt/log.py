"""Logging: plain lines on standard error for people, entries with fields for the journal where that is standard error.

`log.info("started", extra={"instance": "web-3fa9c1-7"})` reads `started instance=web-3fa9c1-7`, and in the journal it has the
field `GESTALT_INSTANCE`, too. What a whole piece of work is about need not be said line by line:

    with about(app="/shop/prod/web", instance="web-3fa9c1-7"):
        ...
"""

from __future__ import annotations

import contextvars
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from gestalt.journal import Journal, Stream

FIELDS = {
    "app": "GESTALT_APP",
    "instance": "GESTALT_INSTANCE",
    "node": "GESTALT_NODE",
    "task": "GESTALT_TASK",
    "event": "GESTALT_EVENT",
    "actor": "GESTALT_ACTOR",
    "check": "GESTALT_CHECK",
    "runtime": "GESTALT_RUNTIME",
    "epoch": "GESTALT_EPOCH",
    "incarnation": "GESTALT_INCARNATION",
    "status": "GESTALT_STATUS",
}
"""What lines say of themselves by `extra` or `about` and can be looked for in the journal; any other name is in the text only."""

_NAMES = frozenset(("app", "instance", "node", "task", "check"))
"""Fields that are not repeated at the end of a line which names them already."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
_PLAIN = re.compile(r"[^\s=\"]+")
_about: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Every line that is logged in this block, and by tasks that begin in it, is about these.

    Work that others share has to begin in a context of its own: `context=contextvars.Context()`.
    """
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def setup_logging(level: str, identifier: str = "", node: str = "") -> None:
    """Send everything from `level` on to the journal, if it is standard error, or else there. May be called again, on a reload.

    Args:
        level: the name of a level.
        identifier: what the journal calls who logs.
        node: the node whose daemon it is; each entry of the journal has it, unless it is about another.
    """
    handler: logging.Handler
    if _under_journal():
        fixed = {"SYSLOG_IDENTIFIER": identifier, "GESTALT_NODE": node}
        handler = JournalHandler(Journal(), Stream(sys.stderr.fileno()), fixed, lost=_lost())
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(PlainFormatter())
    handler.addFilter(tell_what_about)
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [handler]
    for old in before:
        if isinstance(old, JournalHandler):
            old.close()
    root.setLevel(level.upper())
    for noisy in ("asyncio", "docker", "urllib3", "grpc"):
        logging.getLogger(noisy).setLevel(max(logging.INFO, root.level))


def descriptors() -> frozenset[int]:
    """Return what lines are sent by besides standard error: whoever lets go of all that is open, and is to log on, keeps these."""
    handlers = (handler for handler in logging.getLogger().handlers if isinstance(handler, JournalHandler))
    return frozenset(number for handler in handlers for number in handler.descriptors)


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123 info  agent.engine: message key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}"
        return f"{stamp} {record.levelname.lower():<7} {_text(self, record)}"


class PriorityFormatter(logging.Formatter):
    """`<6>agent.engine: message key=value`; every further line carries the priority too."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"<{_priority(record)}>{line}" for line in _text(self, record).splitlines())


class JournalHandler(logging.Handler):
    """Sends entries with fields to the journal; what it does not take at once goes to `fallback`, as lines.

    A line that neither takes is lost, so that nobody waits for a journal that hangs; the next one that is taken has their number before it.

    Args:
        journal: the way to it.
        fallback: another way.
        fixed: fields of every entry; a line may have another value for them.
        lost: lines that were lost before.
    """

    def __init__(self, journal: Journal, fallback: Stream, fixed: Mapping[str, str], lost: int = 0) -> None:
        super().__init__()
        self.lost = lost
        self._journal = journal
        self._fallback = fallback
        self._fixed = {name: value for name, value in fixed.items() if value}
        self._formatter = logging.Formatter()
        self._lines = PriorityFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.lost and self._is_taken(_losses(self.lost)):
                self.lost = 0
            if self.lost or not self._is_taken(record):
                self.lost += 1
        except Exception:  # noqa: BLE001 (as every handler: whoever logs must not fail by it)
            self.handleError(record)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What it sends by."""
        return self._journal.fileno(), self._fallback.fileno()

    def _is_taken(self, record: logging.LogRecord) -> bool:
        entry = self._fixed | _entry(self._formatter, record)
        try:
            self._journal.send(entry.items())
        except OSError:
            return self._fallback.write(self._lines.format(record) + "\n")
        return True

    def close(self) -> None:
        self._journal.close()
        self._fallback.close()
        super().close()


def _losses(count: int) -> logging.LogRecord:
    """Return the line that tells of lines that were lost."""
    said = "1 line was lost" if count == 1 else f"{count} lines were lost"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, "%s, which the journal did not take", (said,), None, "emit")


def _lost() -> int:
    """Return how many lines were lost that nobody was told of yet."""
    return sum(handler.lost for handler in logging.getLogger().handlers if isinstance(handler, JournalHandler))


def _entry(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """Return the fields that a line has in the journal."""
    return {
        "MESSAGE": _text(formatter, record),
        "PRIORITY": str(_priority(record)),
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        **{FIELDS[key]: str(value) for key, value in record.__dict__.items() if key in FIELDS and value != ""},
    }


def tell_what_about(record: logging.LogRecord) -> bool:
    """Note on a record what the work is about that it comes from, unless it names another app or instance: a filter of a handler."""
    work = _about.get()
    named = ((record.__dict__.get(key), work.get(key)) for key in ("app", "instance"))
    if any(own and other and str(own) != other for own, other in named):
        return True
    for key, value in work.items():
        if value:
            record.__dict__.setdefault(key, value)
    return True


def _priority(record: logging.LogRecord) -> int:
    return next((number for level, number in _PRIORITIES if record.levelno >= level), 7)


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    message = record.getMessage()
    fields = "".join(
        f" {key}={_shown(value)}"
        for key, value in record.__dict__.items()
        if key not in _STANDARD and not (key in _NAMES and _names(message, str(value)))
    )
    text = f"{record.name.removeprefix('gestalt.')}: {message}{fields}"
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text


def _names(message: str, value: str) -> bool:
    """Tell whether a name stands in a message as a whole."""
    return value in message and re.search(rf"(?<![\w/.-]){re.escape(value)}(?![\w/-])", message) is not None


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _under_journal() -> bool:
    """Whether standard error is the journal, as systemd tells it: `JOURNAL_STREAM=device:inode`."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stat.S_ISSOCK(status.st_mode) and os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
