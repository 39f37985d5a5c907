"""Check drivers against real servers on loopback: well-behaved ones, and all the ways in which an instance can misbehave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.plugin.registry import driver_names, find_driver
from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus, DriverUnavailable, LaunchRefused
from tests.contracts.check_servers import (
    OK,
    Serve,
    answering,
    check,
    closed_port,
    closing,
    no_exec,
    no_inspect,
    resetting,
    run,
    serving,
    silent,
    target,
)


def test_every_kind_has_a_driver() -> None:
    assert set(driver_names("check")) >= {"http", "https", "tcp", "grpc", "exec", "docker"}


@pytest.mark.parametrize("kind", ["http", "https", "tcp", "grpc"])
async def test_closed_port_is_a_result(kind: str) -> None:
    result = await run(check(kind), target(await closed_port()))
    assert not result.ok
    assert "refuse" in result.output.lower() or "unavailable" in result.output.lower()


@pytest.mark.parametrize("kind", ["http", "https", "tcp", "grpc"])
async def test_a_port_that_the_instance_does_not_have_is_a_result(kind: str) -> None:
    result = await run(check(kind, port="admin"), target(1))
    assert result == CheckResult(False, "the instance has no port called 'admin'")
    nowhere = CheckTarget("127.0.0.1", {}, no_exec, no_inspect)
    assert not (await run(check(kind), nowhere)).ok


@pytest.mark.parametrize("kind", ["http", "https", "grpc"])
async def test_silence_ends_at_the_timeout(kind: str) -> None:
    async with serving(silent) as port:
        result = await run(check(kind, timeout=0.3), target(port))
        assert result == CheckResult(False, "did not answer within 0.3 s")


@pytest.mark.parametrize(
    ("kind", "serve"), [(kind, serve) for kind in ("http", "https", "grpc") for serve in (closing, resetting)] + [("tcp", closing)]
)
async def test_a_hang_up_is_a_result(kind: str, serve: Serve) -> None:
    async with serving(serve) as port:
        assert not (await run(check(kind), target(port))).ok


@pytest.mark.parametrize("kind", ["http", "https", "grpc"])
async def test_cancelling_leaves_nothing_behind(kind: str) -> None:
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()

    async with serving(serve) as port:
        driver: CheckDriver = find_driver("check", kind)()
        running = asyncio.create_task(driver.run(check(kind, timeout=2), target(port)))
        await asyncio.wait_for(arrived.wait(), 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


# -- tcp -------------------------------------------------------------------------------------------------------------


async def test_tcp_connects_to_silence_and_to_greetings() -> None:
    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")

    for serve in (silent, greeting):
        async with serving(serve) as port:
            assert (await run(check("tcp"), target(port))).ok


async def test_tcp_sees_a_proxy_that_hangs_up_because_nobody_is_behind_it() -> None:
    async with serving(closing) as port:
        assert "at once" in (await run(check("tcp"), target(port))).output


# -- grpc ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def grpc_server(*, with_health: bool = True) -> AsyncIterator[tuple[int, HealthServicer]]:
    server = grpc.aio.server()
    servicer = HealthServicer()
    if with_health:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, servicer
    finally:
        await server.stop(0)


async def test_grpc_health() -> None:
    serving_status = health_pb2.HealthCheckResponse.ServingStatus
    async with grpc_server() as (port, servicer):
        assert (await run(check("grpc"), target(port))).ok
        await servicer.set("shop.Cart", serving_status.Value("NOT_SERVING"))
        result = await run(check("grpc", service="shop.Cart"), target(port))
        assert result == CheckResult(False, "gRPC health: NOT_SERVING")
        assert "shop.Other" in (await run(check("grpc", service="shop.Other"), target(port))).output


async def test_grpc_without_health_service_and_without_grpc() -> None:
    async with grpc_server(with_health=False) as (port, _):
        assert "no grpc.health.v1.Health" in (await run(check("grpc"), target(port))).output
    async with serving(answering(OK, close=True)) as port:
        assert not (await run(check("grpc"), target(port))).ok


async def test_grpc_answers_at_once_after_failures() -> None:
    """No back-off of an earlier run may delay a later one: launch times depend on it."""
    port = await closed_port()
    for _ in range(3):
        assert not (await run(check("grpc", timeout=5), target(port))).ok
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        begun = time.monotonic()
        assert (await run(check("grpc", timeout=5), target(port))).ok
        assert time.monotonic() - begun < 0.5
    finally:
        await server.stop(0)


# -- exec and docker -------------------------------------------------------------------------------------------------


def exec_target(code: int = 0, output: bytes = b"", error: Exception | None = None) -> CheckTarget:
    async def execute(argv: Sequence[str], limit: float) -> tuple[int, bytes]:
        assert (tuple(argv), limit) == (("/bin/probe", "--all"), 1.0)
        if error is not None:
            raise error
        return code, output

    return target(1, exec=execute)


async def test_exec() -> None:
    probe = check("exec", command=("/bin/probe", "--all"))
    assert await run(probe, exec_target(0)) == CheckResult(True, "exit code 0")
    assert await run(probe, exec_target(3, b"\x1b[31mdisk\xff\nfull\n")) == CheckResult(False, "exit code 3: [31mdisk\ufffd full")
    assert not (await run(probe, exec_target(1, b"x" * 10_000_000))).ok
    assert await run(probe, exec_target(error=LaunchRefused("no such command"))) == CheckResult(False, "no such command")
    assert await run(probe, exec_target(error=TimeoutError())) == CheckResult(False, "did not answer within 1 s")


async def test_a_runtime_that_does_not_answer_says_nothing_about_the_instance() -> None:
    async def inspect() -> AttemptStatus | None:
        raise DriverUnavailable("Docker does not answer")

    with pytest.raises(DriverUnavailable):
        await find_driver("check", "docker")().run(check("docker"), target(1, inspect=inspect))
    probe = check("exec", command=("/bin/probe", "--all"))
    with pytest.raises(DriverUnavailable):
        await find_driver("check", "exec")().run(probe, exec_target(error=DriverUnavailable("Docker does not answer")))


@pytest.mark.parametrize(
    ("health", "ok", "word"),
    [("healthy", True, "healthy"), ("unhealthy", False, "unhealthy"), ("starting", False, "starting"), ("", False, "no HEALTHCHECK")],
)
async def test_docker_passes_on_the_products_own_check(health: str, ok: bool, word: str) -> None:
    async def inspect() -> AttemptStatus | None:
        return AttemptStatus(AttemptKey("i", 1), AttemptState.RUNNING, "id", "/o/w/e/a", "hash", health=health)

    result = await run(check("docker"), target(1, inspect=inspect))
    assert result.ok is ok
    assert word in result.output


async def test_docker_of_an_instance_that_is_gone() -> None:
    async def inspect() -> AttemptStatus | None:
        return None

    assert not (await run(check("docker"), target(1, inspect=inspect))).ok
