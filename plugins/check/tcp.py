"""Checks that only connect."""

from __future__ import annotations

import asyncio

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.spec.schema import Check

from .wording import explain, find_port, no_answer, no_port, result

_SETTLE = 0.05


class TcpCheck(CheckDriver):
    """Kind `tcp`: the port accepts a connection and does not close it at once.

    Docker's proxy accepts before it knows whether the app listens, and hangs up when it does not: hence the short wait.
    What this check cannot see: a frozen process or node still accepts into its listen backlog, so whoever hangs passes.
    A check that wants an answer (http, grpc, exec) sees that.
    """

    name = "tcp"

    async def run(self, check: Check, target: CheckTarget) -> CheckResult:
        port = find_port(check, target)
        if port is None:
            return no_port(check)
        place = f"{target.host}:{port}"
        try:
            async with asyncio.timeout(check.timeout):
                reader, writer = await asyncio.open_connection(target.host, port)
        except TimeoutError:
            return no_answer(check)
        except OSError as error:
            return result(False, explain(error, place))
        try:
            async with asyncio.timeout(min(_SETTLE, check.timeout / 2)):
                greeting = await reader.read(1)
        except TimeoutError:
            return result(True, f"{place} accepts connections")
        except OSError as error:
            return result(False, explain(error, place))
        finally:
            writer.transport.abort()
        return (
            result(True, f"{place} accepts connections")
            if greeting
            else result(False, f"{place} accepts connections and closes them at once")
        )
