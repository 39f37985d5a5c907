"""Log lines: for people, and for the journal."""

from __future__ import annotations

import logging
import re

from gestalt.log import PlainFormatter, PriorityFormatter


def record(level: int, message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "gestalt.agent.engine", "levelno": level, "levelname": logging.getLevelName(level), "msg": message}
    )
    made.__dict__.update(extra)
    return made


def test_a_plain_line_has_time_level_place_and_fields() -> None:
    line = PlainFormatter().format(record(logging.INFO, "started", instance="web-3fa9c1-7", why='a "b" c'))
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} info    agent\.engine: started instance=web-3fa9c1-7 why="a \\"b\\" c"', line
    )


def test_every_line_for_the_journal_carries_its_priority() -> None:
    assert PriorityFormatter().format(record(logging.ERROR, "one\ntwo")) == "<3>agent.engine: one\n<3>two"


def test_a_field_cannot_start_a_line_of_its_own() -> None:
    assert "\n" not in PlainFormatter().format(record(logging.INFO, "said", by="x\n<0>forged"))
