"""Autoscaling from end to end: real load on a real appliance, measured by its agent, makes one instance two, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.appliance_lab import Appliance, Traffic, wait_for, web, web_image

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

WEB, BURN = "/test/scale/live/web", "/test/scale/live/burn"
QUICK = {"min": 1, "max": 2, "window": "3s", "cool_down_up": "1s", "cool_down_down": "3s"}


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    web_image()
    made = Appliance(tmp_path / "r", runtimes=("docker",), settings={"agent": {"usage_interval": "1s"}})
    made.init()
    made.up()
    made.wait_ready()
    yield made
    made.destroy()


def app(appliance: Appliance, path: str) -> dict[str, Any]:
    found: dict[str, Any] = appliance.json("inspect", path)["app"]
    return found


def wait_for_count(appliance: Appliance, path: str, count: int) -> None:
    def reached() -> bool:
        seen = app(appliance, path)
        return (seen["count"], seen["healthy"], seen["task"]) == (count, count, "")

    wait_for(f"{count} of {path}", reached, 90, lambda: (app(appliance, path)["autoscaling"], appliance.logs()))


def scalings(appliance: Appliance) -> list[str]:
    lines = appliance.ctl("events", "--after", "0", "--kind", "app.scaled").stdout.splitlines()
    return [line[line.index("autoscaler") :] for line in lines if "autoscaler scaled" in line]


def test_requests_make_one_two_and_their_end_makes_two_one(appliance: Appliance) -> None:
    limits = {"autoscale": {**QUICK, "metrics": [{"kind": "requests", "target": 20}]}, "instances": 1}
    appliance.apply(web(WEB, **limits))
    with Traffic(appliance.http_port, rate=35) as traffic:
        wait_for_count(appliance, WEB, 2)
        wait_for("requests to be seen", lambda: sum((item["usage"] or {}).get("requests", 0) for item in appliance.instances(WEB)) > 25)
    assert traffic.counts["GET"].failures == []
    assert len(traffic.counts["GET"].by) == 2, "both of them answer"
    wait_for_count(appliance, WEB, 1)
    up, down = scalings(appliance)
    assert up.startswith(f"autoscaler scaled {WEB} from 1 to 2: ")
    assert up.endswith("requests a second of 20: 1 → 2")
    assert down.startswith(f"autoscaler scaled {WEB} from 2 to 1: ")
    tasks = appliance.json("tasks")["tasks"]
    assert [(task["kind"], task["requested_by"], task["state"]) for task in tasks[:2]] == [("scale", "autoscaler", "succeeded")] * 2


def test_a_busy_loop_makes_one_two(appliance: Appliance) -> None:
    burn = web(BURN, command=["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M"], instances=1, ports=[], checks=[])
    burn["resources"] = {"cpu": "500m", "memory": "256MiB"}
    burn["autoscale"] = {**QUICK, "metrics": [{"kind": "cpu", "target": 4}, {"kind": "memory", "target": 80}]}
    appliance.apply(burn)
    wait_for_count(appliance, BURN, 2)
    (said,) = scalings(appliance)
    assert ": cpu " in said

    def measured() -> list[dict[str, Any]]:
        usages = [item["usage"] for item in appliance.instances(BURN)]
        return usages if all(usage is not None and usage["memory"] > 60 * 1024**2 for usage in usages) else []

    for usage in wait_for("what both use", measured):
        assert 0.02 < usage["cpu"] < 1.3, "a busy loop has a core, or what a busy machine leaves of it"
        assert usage["cpu_share"] == pytest.approx(usage["cpu"] * 2)
        assert usage["memory"] < 100 * 1024**2
        assert usage["memory_share"] == pytest.approx(usage["memory"] / (256 * 1024**2))
    assert len(appliance.ctl("top", BURN).stdout.splitlines()) == 3
