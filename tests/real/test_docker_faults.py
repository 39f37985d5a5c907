"""Docker stopped, killed, hung and not there at all: what the driver says meanwhile, and that it is right again afterwards."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gestalt.plugin.runtime import AttemptKey, AttemptState, DriverUnavailable, Launch, LogOptions
from gestalt.plugins.runtime.docker import DockerRuntime
from gestalt.spec.schema import AppSpec

from .docker_lab import IMAGE, PrivateEngine, eventually, in_thread, launch_of, make_image, private_engine, settings_for

pytestmark = pytest.mark.real

LIMIT = 1.0


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """An Engine whose containers outlive it."""
    with private_engine(tmp_path_factory.mktemp("lively"), live_restore=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """An Engine as Docker comes: its containers end with it."""
    with private_engine(tmp_path_factory.mktemp("plain"), live_restore=False) as engine:
        yield engine


@asynccontextmanager
async def driver(folder: Path, socket: Path, limit: float = 20.0) -> AsyncIterator[tuple[DockerRuntime, list[AttemptKey | None]]]:
    runtime = DockerRuntime.create(settings_for(folder, socket, limit))
    woken: list[AttemptKey | None] = []
    runtime.subscribe(woken.append)
    await runtime.start()
    try:
        yield runtime, woken
    finally:
        await runtime.close()


def sleeper(script: str = "sleep 1000") -> Launch:
    return launch_of(AppSpec(path="/lab/real/test/web", image=IMAGE, command=("/bin/sh", "-c", script)))


async def states(runtime: DockerRuntime) -> dict[AttemptKey, tuple[AttemptState, int | None]]:
    return {status.key: (status.state, status.exit_code) for status in await runtime.list()}


async def reconnected(woken: list[AttemptKey | None]) -> None:
    async def told() -> bool:
        return None in woken

    await eventually("the events to be followed again", told)


async def test_containers_outlive_an_engine_that_restores_them(tmp_path: Path, lively: PrivateEngine) -> None:
    async with driver(tmp_path, lively.socket) as (runtime, woken):
        stays, goes = sleeper(), sleeper("while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 9")
        launched = await runtime.launch(stays)
        ending = await runtime.inspect((await runtime.launch(goes)).key)
        assert ending is not None
        await in_thread(lively.stop)
        with pytest.raises(DriverUnavailable, match="is dockerd running"):
            await runtime.list()
        (Path(f"/proc/{ending.pid}/root/tmp/go")).touch()
        woken.clear()
        await in_thread(lively.start)
        await reconnected(woken)

        async def the_truth() -> bool:
            return await states(runtime) == {stays.key: (AttemptState.RUNNING, None), goes.key: (AttemptState.EXITED, 9)}

        await eventually("both to be told apart", the_truth)
        again = await runtime.inspect(stays.key)
        assert again is not None
        assert again.runtime_id == launched.runtime_id

        woken.clear()
        await runtime.stop(stays.key, "SIGKILL", 0)

        async def heard() -> bool:
            return stays.key in woken

        await eventually("an event after the reconnect", heard)
        for key in await states(runtime):
            await runtime.remove(key)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_containers_that_ended_with_their_engine_are_listed_as_ended(
    tmp_path: Path, plain: PrivateEngine, how: signal.Signals
) -> None:
    async with driver(tmp_path, plain.socket) as (runtime, woken):
        launch = sleeper("trap 'exit 4' TERM; while :; do sleep 0.1; done")
        await runtime.launch(launch)
        following = asyncio.create_task(anext(runtime.logs(launch.key, LogOptions(follow=True))))
        await in_thread(lambda: plain.stop(how))
        with pytest.raises((DriverUnavailable, StopAsyncIteration)):
            await asyncio.wait_for(following, 10)
        woken.clear()
        await in_thread(plain.start)
        await reconnected(woken)
        (state,) = (await states(runtime)).values()
        assert state[0] is AttemptState.EXITED
        assert state[1] != 0
        assert (await runtime.launch(launch)).state is AttemptState.EXITED, "an ended attempt is not started again"
        await runtime.remove(launch.key)


async def test_an_engine_that_comes_later_is_found(tmp_path: Path, lively: PrivateEngine) -> None:
    await in_thread(lively.stop)
    async with driver(tmp_path, lively.socket) as (runtime, woken):
        with pytest.raises(DriverUnavailable, match=r"No such file|Connection refused") as unavailable:
            await runtime.probe()
        assert "systemctl status docker" in str(unavailable.value)
        with pytest.raises(DriverUnavailable):
            await runtime.prepare(sleeper().spec, lambda sentence: None)
        await in_thread(lively.start)
        assert (await runtime.probe())["live_restore"] == "true"
        await reconnected(woken)
        await runtime.launch(launch := sleeper())
        await runtime.remove(launch.key)


async def test_a_hung_engine_costs_the_limit_and_no_threads_for_ever(tmp_path: Path, lively: PrivateEngine) -> None:
    async with driver(tmp_path, lively.socket, LIMIT) as (runtime, _):
        launch = sleeper()
        await runtime.launch(launch)
        await in_thread(lambda: lively.send(signal.SIGSTOP))
        try:
            for _ in range(2):
                began = time.monotonic()
                calls = [runtime.list(), runtime.inspect(launch.key), runtime.launch(sleeper()), runtime.probe()] * 1
                outcomes = await asyncio.gather(*calls, *(runtime.list() for _ in range(40)), return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [DriverUnavailable] * 44
                assert "does not answer" in str(outcomes[0]) or "did not answer" in str(outcomes[0])
                assert time.monotonic() - began < 2 * LIMIT + 1
            threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("docker_")]
            assert len(threads) <= 12
        finally:
            lively.send(signal.SIGCONT)

        async def answers() -> bool:
            try:
                return launch.key in await states(runtime)
            except DriverUnavailable:
                return False

        await eventually("the Engine to be of use again", answers, 5)
        for key in await states(runtime):
            await runtime.remove(key)


async def test_close_does_not_wait_for_a_hung_engine(tmp_path: Path, lively: PrivateEngine) -> None:
    async with driver(tmp_path, lively.socket, LIMIT) as (runtime, _):
        await runtime.probe()
        lively.send(signal.SIGSTOP)
        try:
            hanging = asyncio.create_task(runtime.list())
            await asyncio.sleep(0)
            began = time.monotonic()
            await runtime.close()
            assert time.monotonic() - began < LIMIT / 2
            with pytest.raises((DriverUnavailable, asyncio.CancelledError)):
                await hanging
        finally:
            lively.send(signal.SIGCONT)


async def test_a_launch_whose_answer_was_lost_is_the_same_launch(tmp_path: Path, lively: PrivateEngine) -> None:
    await in_thread(lambda: make_image(socket=lively.socket))
    async with driver(tmp_path, lively.socket, LIMIT) as (runtime, _):
        launch = sleeper()
        await runtime.probe()
        attempt = asyncio.create_task(runtime.launch(launch))
        await asyncio.sleep(0.02)
        lively.send(signal.SIGSTOP)
        with pytest.raises(DriverUnavailable):
            await attempt
        lively.send(signal.SIGCONT)
        await eventually("the launch", lambda: _launched(runtime, launch))
        assert await states(runtime) == {launch.key: (AttemptState.RUNNING, None)}
        await runtime.remove(launch.key)


async def _launched(runtime: DockerRuntime, launch: Launch) -> bool:
    try:
        return (await runtime.launch(launch)).state is AttemptState.RUNNING
    except DriverUnavailable:
        return False
