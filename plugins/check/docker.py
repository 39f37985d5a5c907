"""Checks that pass on what the product's own health check says."""

from __future__ import annotations

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.spec.schema import Check

from .wording import result

_SENTENCES = {
    "healthy": "Docker's HEALTHCHECK says healthy",
    "unhealthy": "Docker's HEALTHCHECK says unhealthy",
    "starting": "Docker's HEALTHCHECK is still starting",
    "": "the image has no HEALTHCHECK",
}


class DockerCheck(CheckDriver):
    """Kind `docker`: the HEALTHCHECK of the image. "starting" does not count as well: give `grace` at least its start period.

    A runtime that does not answer (`DriverUnavailable`) is passed on: it says nothing about the instance.
    """

    name = "docker"

    async def run(self, check: Check, target: CheckTarget) -> CheckResult:
        del check
        status = await target.inspect()
        if status is None:
            return result(False, "the instance is gone")
        return result(status.health == "healthy", _SENTENCES.get(status.health, f"Docker's HEALTHCHECK says {status.health}"))
