"""A command beside a process that cannot be started leaves nothing open."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.plugin.runtime import ExecRequest
from gestalt.plugins.runtime.process_exec import start_exec


def count_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("tty", [False, True])
async def test_a_shim_that_cannot_be_started_leaves_nothing_open(tty: bool) -> None:
    before = count_open()
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            await start_exec(("/nonexistent/shim",), [("arg", "true")], ExecRequest(("true",), tty=tty))
    assert count_open() == before
