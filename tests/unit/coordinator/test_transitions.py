"""Which events two reports on one instance make."""

from __future__ import annotations

import pytest

from gestalt.coordinator.transitions import transitions
from gestalt.model import CheckStatus, Health, Observed, Phase

STARTING = Observed("web-1", 1, Phase.STARTING)
RUNNING = Observed("web-1", 1, Phase.RUNNING, Health.HEALTHY, ready=True)
FAILED = Observed("web-1", 1, Phase.FAILED, reason="exit code 3")


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (None, STARTING, []),
        (STARTING, RUNNING, ["instance.healthy"]),
        (RUNNING, RUNNING, []),
        (RUNNING, FAILED, ["instance.failed"]),
        (FAILED, FAILED, []),
        (FAILED, Observed("web-1", 1, Phase.FAILED, reason="exit code 4"), ["instance.failed"]),
        (FAILED, Observed("web-1", 2, Phase.RUNNING, ready=True), ["instance.restarted", "instance.healthy"]),
        (FAILED, Observed("web-1", 2, Phase.FAILED, reason="exit code 3", crash_loop=True), ["instance.restarted", "instance.crash-loop"]),
        (RUNNING, Observed("web-1", 1, Phase.RUNNING, Health.UNHEALTHY), ["instance.unhealthy"]),
        (RUNNING, Observed("web-1", 1, Phase.STOPPING), []),
    ],
)
def test_kinds(before: Observed | None, after: Observed, kinds: list[str]) -> None:
    assert [kind for kind, _ in transitions(before, after)] == kinds


def test_an_unhealthy_instance_says_which_check_failed() -> None:
    checks = (CheckStatus("http-1", Health.UNHEALTHY, "status 500"), CheckStatus("tcp-1", Health.HEALTHY))
    ((_, sentence),) = transitions(RUNNING, Observed("web-1", 1, Phase.RUNNING, Health.UNHEALTHY, checks=checks))
    assert sentence == "web-1 is not healthy any more: check http-1: status 500"
