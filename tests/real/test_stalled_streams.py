"""Streams that cannot be taken up again, over a network that lets nothing through for a while."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from gestalt import shell

pytestmark = pytest.mark.real


async def stalled(seconds: float) -> dict[str, Any]:
    """Return what becomes of a shell whose network stalls."""
    done = await shell.run(["unshare", "--net", sys.executable, "-m", "tests.real.stalled_stream", str(seconds)], limit=60)
    assert done.ok, done.complaint()
    return dict(json.loads(done.stdout))


async def test_a_shell_bears_a_short_stall_and_ends_after_a_long_one() -> None:
    short, long = await asyncio.gather(stalled(2.0), stalled(8.0))
    assert short == {"answer": "<meanwhile>", "code": None}
    assert long["answer"] == ""
    assert long["code"] not in (None, 0)
