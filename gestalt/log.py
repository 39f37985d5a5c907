"""Logging to standard error: plain lines for people, priority prefixes for the journal, fields as key=value.

`log.info("started", extra={"instance": "web-3fa9c1-7"})` prints `started instance=web-3fa9c1-7`.
"""

from __future__ import annotations

import logging
import os
import re
import sys

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
_PLAIN = re.compile(r"[^\s=\"]+")


def setup_logging(level: str) -> None:
    """Send everything from `level` on to standard error. May be called again, on a reload."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter() if _under_journal() else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("asyncio", "docker", "urllib3", "grpc"):
        logging.getLogger(noisy).setLevel(max(logging.INFO, root.level))


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123 info  agent.engine: message key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}"
        return f"{stamp} {record.levelname.lower():<7} {_text(self, record)}"


class JournalFormatter(logging.Formatter):
    """`<6>agent.engine: message key=value`; every further line carries the priority too."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in _text(self, record).splitlines())


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    message = record.getMessage()
    fields = "".join(f" {key}={_shown(value)}" for key, value in record.__dict__.items() if key not in _STANDARD)
    text = f"{record.name.removeprefix('gestalt.')}: {message}{fields}"
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _under_journal() -> bool:
    """Whether standard error is the journal, as systemd tells it: `JOURNAL_STREAM=device:inode`."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
