"""Canaries on a whole appliance, under traffic: they take a share of the requests, and neither their promotion nor their end loses one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.real.appliance_lab import Appliance, Traffic, wait_for, web, web_image

pytestmark = pytest.mark.timeout(240)
WEB = "/test/e2e/live/web"
CANARY = {"strategy": "canary", "canary": "30%"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    web_image()
    appliance = Appliance(tmp_path_factory.mktemp("appliance"))
    appliance.init()
    try:
        appliance.up()
        appliance.wait_ready()
        appliance.apply(web())
        yield appliance
    finally:
        appliance.destroy()


def _begin(running: Appliance, **fields: Any) -> None:
    """Begin an update without following it."""
    running.ctl("apply", "--detach", "-f", "-", stdin=yaml.safe_dump(web(**fields)))


def _app(running: Appliance) -> dict[str, Any]:
    found: dict[str, Any] = running.json("inspect", WEB)["app"]
    return found


def _waits(running: Appliance) -> None:
    wait_for("the canary", lambda: f"waits for `gestaltctl promote {WEB}`" in _app(running)["canary"], state=running.logs)


def test_a_canary_takes_requests_and_its_promotion_loses_none(running: Appliance) -> None:
    before = running.containers()
    with Traffic(running.http_port, methods=("GET", "POST")) as traffic:
        _begin(running, env={"GREETING": "canary"}, update=CANARY)
        _waits(running)
        (canary,) = [item["id"] for item in running.instances(WEB) if item["canary"]]
        assert before.items() <= running.containers().items(), "nothing else was touched"
        wait_for("requests for it", lambda: any(canary in answerer for answerer in traffic.counts["GET"].by), state=running.logs)
        running.ctl("promote", WEB)
    assert [count.failures for count in traffic.counts.values()] == [[], []]
    assert {item["version"] for item in running.instances(WEB)} == {2}
    assert canary in {item["id"] for item in running.instances(WEB)}
    print(f"{traffic.counts['GET'].sent} GETs and {traffic.counts['POST'].sent} POSTs, none failed")


def test_a_canary_that_fails_goes_and_loses_no_request(running: Appliance) -> None:
    before, version = running.containers(), _app(running)["version"]
    checks = [{"kind": "http", "path": "/nothing-here", "interval": "200ms", "timeout": "100ms", "grace": "500ms"}]
    with Traffic(running.http_port, methods=("GET", "POST")) as traffic:
        _begin(running, env={"GREETING": "bad"}, checks=checks, update=CANARY | {"health_deadline": "6s"})
        wait_for("its end", lambda: not _app(running)["canary_version"], state=running.logs)
        wait_for("the others alone, untouched", lambda: running.containers() == before, state=running.logs)
    assert [count.failures for count in traffic.counts.values()] == [[], []]
    task = next(task for task in running.json("tasks", "--app", WEB)["tasks"] if task["kind"] == "update")
    assert task["state"] == "failed"
    assert task["message"].startswith(f"the canary of version {version + 1} is given up: an instance did not become healthy within 6 s")
    assert "404" in task["message"]
    print(f"{traffic.counts['GET'].sent} GETs and {traffic.counts['POST'].sent} POSTs, none failed")
