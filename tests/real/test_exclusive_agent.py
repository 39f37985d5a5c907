"""What must never run twice, on one real node: taken before it starts, adopted, handed back, and ended in time whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gestalt.agent.exclusive import NO_GRANT, OVER
from gestalt.agent.fence.cgroups import pids_in
from gestalt.clock import boottime, monotonic
from gestalt.config import DockerSettings, TimingSettings
from gestalt.pki import Role
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc
from gestalt.rpc_server import RpcServer
from tests.real.agent_rig import until
from tests.real.docker_lab import IMAGE, private_engine
from tests.real.exclusive_node import GRANT, TIMING, Node, exclusive_node, single
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real

PATIENT = TimingSettings(session=5.0, lease=5.0, kill=2.0, margin=1.0)
"""Bears a restart of the fence on a busy machine."""


@pytest.fixture
async def node(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Node]:
    async with exclusive_node(ensemble, tmp_path) as node:
        yield node
        with contextlib.suppress(KeyError, ProcessLookupError):
            ensemble.resume(0)


async def test_it_runs_under_a_grant_and_hands_it_back_before_it_is_told_gone(node: Node) -> None:
    spec = single()
    instance = node.want(spec)
    await until("the reason", lambda: node.reason(instance) == NO_GRANT)
    node.want(spec, 2)
    await until("the fence's answer", lambda: f"no grant {GRANT}" in node.reason(instance))
    await node.give(spec, 2)
    await until("it runs", lambda: node.coordinator.phase(instance) == "running")
    assert (await node.rig.lease()).grants == {GRANT: 2}
    assert node.at_work()
    node.want(spec, 2, stop=True)
    await until("it is told gone", lambda: instance in node.coordinator.gone)
    assert not (await node.rig.lease()).grants
    assert not node.held()


async def test_an_agent_that_starts_again_takes_it_over_as_it_is(ensemble: Ensemble, tmp_path: Path) -> None:
    """Also over a kill of the fence; and a restart in place is held anew, in other cgroups."""
    async with exclusive_node(ensemble, tmp_path, fence={"timing": PATIENT}) as node:
        await _is_taken_over(node)


async def _is_taken_over(node: Node) -> None:
    instance = await node.run(single())
    before, held = node.at_work(), node.held()
    await node.stop_agent()
    node.rig.kill()
    node.rig.start()
    await node.start_agent()
    until_renewed = boottime() + PATIENT.lease
    await until("a lease that goes on", lambda: node.rig.held()["until"] > until_renewed)
    assert set(before) & set(node.at_work()), "it is another one"
    assert node.held() == held
    for pid in before:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(
        "the next attempt", lambda: node.coordinator.observed[instance].attempt == 2 and node.coordinator.phase(instance) == "running"
    )
    assert node.held()["cgroups"] != held["cgroups"]
    assert node.at_work()


async def test_a_grant_that_is_given_to_another_node_ends_it_and_nothing_starts_again(node: Node) -> None:
    instance = await node.run(single())
    cgroups = node.held()["cgroups"]
    await node.give(single(), 2, node="another")
    await until("its end", lambda: not any(pids_in(Path(item)) for item in cgroups), TIMING.kill + 3.0)
    await node.rig.listed()
    await until("the reason", lambda: "generation 2, not 1" in node.reason(instance))
    assert node.reason(instance).startswith(OVER)
    assert node.coordinator.observed[instance].attempt == 1
    await node.give(single(), 3)
    node.want(single(), 3)
    await until("it runs again", lambda: node.coordinator.phase(instance) == "running")
    assert (await node.rig.lease()).grants == {GRANT: 3}


async def test_why_it_ended_is_known_while_the_disk_does_not_take_it_that_it_did(node: Node) -> None:
    instance = await node.run(single())
    data = node.rig.settings.data_dir
    away = data.rename(data.with_name("away"))
    try:
        await node.give(single(), 2, node="another")
        await until("the reason", lambda: node.reason(instance), TIMING.kill + 3.0)
        assert node.reason(instance).startswith(OVER)
    finally:
        away.rename(data)
    await node.rig.listed()


async def test_a_fence_that_hangs_with_zookeeper_cut_is_stood_in_for(node: Node) -> None:
    await node.run(single())
    node.rig.send(signal.SIGSTOP)
    node.ensemble.pause(0)
    await node.is_over_in_time()
    node.ensemble.resume(0)
    node.rig.send(signal.SIGCONT)


async def test_an_agent_that_starts_without_a_fence_knows_of_the_lease(node: Node) -> None:
    await node.run(single())
    cgroups = node.held()["cgroups"]
    await until("what the agent knows", (node.settings.run_dir / "lease.json").exists)
    await node.stop_agent()
    node.rig.kill()
    await node.start_agent()
    limit = TIMING.lease + TIMING.kill + 3.0
    await until("its end", lambda: not any(pids_in(Path(item)) for item in cgroups), limit)


async def test_docker_hangs_and_the_agent_is_dead_while_the_lease_ends(ensemble: Ensemble, tmp_path: Path, tmp_path_factory: Any) -> None:
    """Only the fence is left, and the Engine comes back with a container that has ended."""
    folder = tmp_path_factory.mktemp("engine")
    with private_engine(folder) as engine:
        docker = DockerSettings(socket=engine.socket, credentials_dir=tmp_path, limit=5.0)
        async with exclusive_node(ensemble, tmp_path, runtimes=("docker",), docker=docker) as node:
            instance = await node.run(single(runtime="docker", image=IMAGE))
            assert len(node.at_work()) >= 2, "in one hierarchy or more, the shell and what it runs"
            engine.send(signal.SIGSTOP)
            await node.stop_agent()
            ensemble.pause(0)
            try:
                await node.is_over_in_time()
            finally:
                engine.send(signal.SIGCONT)
                ensemble.resume(0)
            await node.start_agent()
            await until(
                "why it does not run",
                lambda: "membership 1 of this node" in node.reason(instance) or node.coordinator.phase(instance) == "running",
            )


class Promising(agent_pb2_grpc.PromisesServicer):
    """A coordinator that promises as long as it is told to."""

    def __init__(self) -> None:
        self.reason = ""
        self.asked: list[agent_pb2.PromiseRequest] = []

    async def Promise(self, request: agent_pb2.PromiseRequest, context: Any) -> agent_pb2.PromiseReply:  # noqa: N802
        self.asked.append(request)
        return agent_pb2.PromiseReply(promised=not self.reason, seconds=TIMING.lease + TIMING.kill + TIMING.margin, reason=self.reason)


@pytest.mark.parametrize("failsafe", [True, False])
async def test_without_zookeeper_it_goes_on_while_every_coordinator_promises(failsafe: bool, ensemble: Ensemble, tmp_path: Path) -> None:
    first, second = Promising(), Promising()
    async with exclusive_node(ensemble, tmp_path, fence={"failsafe": True}, promises=first, failsafe=failsafe) as node:
        server = await RpcServer.start("127.0.0.1:0", node.coordinator.tls(Role.COORDINATOR, "second"), _register(second))
        await node.stop_agent()
        addresses = (*node.settings.coordinators, f"127.0.0.1:{server.port}")
        node.settings = node.settings.model_copy(update={"coordinators": addresses})
        await node.start_agent()
        await node.run(single())
        ensemble.pause(0)
        try:
            end = monotonic() + TIMING.lease + TIMING.kill + 1.0
            while failsafe and monotonic() < end:
                assert node.at_work(), node.rig.log
                await asyncio.sleep(0.1)
            second.reason = "it leads"
            await node.is_over_in_time() if not failsafe else await until(
                "its end", lambda: not node.at_work(), TIMING.lease + TIMING.kill + 3.0
            )
        finally:
            ensemble.resume(0)
        assert bool(first.asked and second.asked) is failsafe
        assert all((request.node_id, request.incarnation) == (node.settings.node_id, 1) for request in first.asked)
        await server.stop(0)


def _register(servicer: Promising) -> Callable[[Any], list[str]]:
    def register(server: Any) -> list[str]:
        agent_pb2_grpc.add_PromisesServicer_to_server(servicer, server)
        return ["gestalt.v1.Promises"]

    return register


async def test_on_a_node_that_is_cut_off_an_app_stops_that_says_so(node: Node) -> None:
    spec = single(placement={"on_isolation": "stop"})
    instance = node.want(spec)
    await until("it runs", lambda: node.coordinator.phase(instance) == "running")
    pid = int(node.coordinator.observed[instance].attempt)
    await node.coordinator.stop()
    folder = node.settings.data_dir / "process"
    node.ensemble.pause(0)
    started = [
        Path("/proc", line.partition("=")[2])
        for file in folder.glob("*/started")
        for line in file.read_text().splitlines()
        if line.startswith("pid=")
    ]
    assert started
    assert all(process.exists() for process in started)
    await until("its end", lambda: not any(process.exists() for process in started))
    node.ensemble.resume(0)
    await node.coordinator.start()
    await until(
        "it runs again", lambda: node.coordinator.phase(instance) == "running" and node.coordinator.observed[instance].attempt > pid
    )
