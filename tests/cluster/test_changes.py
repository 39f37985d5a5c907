"""An app that is changed in every way while it is used: no request fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gestalt.clock import monotonic

from .lab.cluster import Cluster, web
from .lab.invariants import failed_requests
from .lab.nodes import LabError, can_run
from .lab.traffic import Traffic

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

PARADE = "/lab/main/prod/parade"
HOST = "parade"
MANY = 20
CHECK = {"kind": "http", "path": "/index.html", "interval": "1s", "timeout": "1s", "failures": 5, "grace": "2s"}
_PATIENT = 200.0


def described(**fields: Any) -> dict[str, Any]:
    return web(PARADE, **{"instances": MANY, "checks": [CHECK], "update": {"max_surge": "25%"}, **fields})


async def apply(cluster: Cluster, spec: dict[str, Any]) -> tuple[int, str]:
    """Update the app and follow that to its end; return the exit code and what was said."""
    done = await cluster.run("apply", "--file", "-", stdin=json.dumps(spec), limit=_PATIENT)
    return done.code, (done.stdout + done.stderr).decode(errors="replace")


async def versions(cluster: Cluster) -> list[int]:
    answer = await cluster.json("inspect", PARADE)
    return sorted({item["version"] for item in answer["instances"]})


async def test_scaling_an_update_a_failing_canary_and_a_drain_cost_no_request(shared_cluster: Cluster) -> None:
    cluster = shared_cluster
    await cluster.until_ready()
    await cluster.launch(described(instances=2))
    took: dict[str, float] = {}
    try:
        async with Traffic(cluster.lab.nodes, host=HOST, rate=60, limit=5.0) as traffic:
            await traffic.flowing(20)
            begun = monotonic()
            await cluster.ctl("scale", PARADE, str(MANY), limit=_PATIENT)
            took["2 to 20"], begun = monotonic() - begun, monotonic()
            code, said = await apply(cluster, described(env={"NEWER": "yes"}))
            assert (code, await versions(cluster)) == (0, [2]), said
            took["rolling update of 20"], begun = monotonic() - begun, monotonic()
            sick = [{**CHECK, "path": "/nothing/is/here"}]
            tried = {"strategy": "canary", "canary": "10%", "health_deadline": "6s"}
            code, said = await apply(cluster, described(env={"NEWER": "no"}, checks=sick, update=tried))
            assert code != 0, said
            assert "canary" in said
            await cluster.until("the canary to be gone", lambda: _is_alone(cluster, 2))
            took["failing canary"], begun = monotonic() - begun, monotonic()
            node = cluster.lab.nodes[-1]
            await cluster.ctl("node", "drain", node.name, limit=_PATIENT)
            assert node.name not in {item.node for item in await cluster.listed()}
            await cluster.ctl("node", "uncordon", node.name)
            took["drain"], begun = monotonic() - begun, monotonic()
            await cluster.ctl("scale", PARADE, "2", limit=_PATIENT)
            took["20 to 2"] = monotonic() - begun
            await traffic.flowing(20)
        print(f"{len(traffic.requests)} requests; seconds: " + ", ".join(f"{name} {passed:.1f}" for name, passed in took.items()))
        assert failed_requests(traffic.requests) == []
    finally:
        await cluster.delete(PARADE)


async def _is_alone(cluster: Cluster, version: int) -> bool:
    try:
        return await versions(cluster) == [version] and len((await cluster.json("inspect", PARADE))["instances"]) == MANY
    except LabError:
        return False
