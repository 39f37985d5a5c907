"""Checks that run a command inside the instance."""

from __future__ import annotations

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.plugin.runtime import LaunchRefused
from gestalt.spec.schema import Check

from .wording import no_answer, result


class ExecCheck(CheckDriver):
    """Kind `exec`: exit code 0 is well, anything else is not.

    A runtime that does not answer (`DriverUnavailable`) is passed on: it says nothing about the instance.
    """

    name = "exec"

    async def run(self, check: Check, target: CheckTarget) -> CheckResult:
        try:
            code, output = await target.exec(check.command, check.timeout)
        except TimeoutError:
            return no_answer(check)
        except LaunchRefused as error:
            return result(False, str(error))
        text = output.decode("utf-8", errors="replace").strip()
        return result(code == 0, f"exit code {code}: {text}" if text else f"exit code {code}")
