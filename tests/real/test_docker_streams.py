"""Log followers and commands that nobody waits for any more leave nothing behind: no socket, no thread, no task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from gestalt.plugin.runtime import DriverUnavailable, ExecRequest, LogLine, LogOptions
from gestalt.plugins.runtime.docker import DockerRuntime
from gestalt.spec.schema import AppSpec

from .docker_lab import IMAGE, docker, eventually, in_thread, launch_of

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("image")]

CHATTY = ("/bin/sh", "-c", "while :; do echo line; sleep 0.02; done")
FOLLOWERS = 40


def sockets() -> int:
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            count += str(entry.readlink()).startswith("socket:")
    return count


async def settled(sockets_before: int) -> None:
    async def gone() -> bool:
        return sockets() <= sockets_before

    await eventually("the sockets to be closed", gone, 5)


async def test_followers_that_go_away_leave_nothing(runtime: DockerRuntime) -> None:
    launch = launch_of(AppSpec(path="/lab/real/test/web", image=IMAGE, command=CHATTY))
    await runtime.launch(launch)
    await runtime.list()

    async def follow() -> None:
        async for _ in runtime.logs(launch.key, LogOptions(follow=True)):
            pass

    async def read_one() -> AsyncGenerator[LogLine, None]:
        lines = cast("AsyncGenerator[LogLine, None]", runtime.logs(launch.key, LogOptions(follow=True)))
        assert (await anext(lines)).data == b"line\n"
        return lines

    opened = await asyncio.gather(*(read_one() for _ in range(FOLLOWERS)))
    before_sockets = sockets() - FOLLOWERS
    assert threading.active_count() < FOLLOWERS, [thread.name for thread in threading.enumerate()]
    followers = [asyncio.create_task(follow()) for _ in range(5)]
    for lines in opened:
        await lines.aclose()
    for task in followers:
        task.cancel()
    await asyncio.wait(followers)
    await settled(before_sockets)
    assert (await runtime.list())[0].key == launch.key


async def test_a_silent_instance_can_be_followed_and_let_go(runtime: DockerRuntime) -> None:
    launch = launch_of(AppSpec(path="/lab/real/test/web", image=IMAGE, command=("/bin/sleep", "1000")))
    await runtime.launch(launch)
    await runtime.list()
    before = sockets()
    lines = runtime.logs(launch.key, LogOptions(follow=True))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(lines), 0.5)
    await settled(before)


async def test_a_slow_reader_slows_the_stream_not_the_loop(runtime: DockerRuntime) -> None:
    launch = launch_of(AppSpec(path="/lab/real/test/web", image=IMAGE, command=("/bin/sh", "-c", "yes 0123456789 | head -n 90000")))
    await runtime.launch(launch)
    count = 0
    async for line in runtime.logs(launch.key, LogOptions(follow=True)):
        assert line.data == b"0123456789\n"
        count += 1
        if count % 30_000 == 0:
            await asyncio.sleep(0.05)
    assert count == 90_000


async def test_commands_that_are_let_go_leave_nothing(runtime: DockerRuntime) -> None:
    launched = await runtime.launch(launch := launch_of(AppSpec(path="/lab/real/test/web", image=IMAGE, command=("/bin/sleep", "1000"))))
    await runtime.list()
    before = sockets()
    sessions = [await runtime.exec(launch.key, ExecRequest(("/bin/sleep", "4242"), tty=tty)) for tty in (False, True)]
    assert docker("top", launched.runtime_id).count("sleep 4242") == 2
    for session in sessions:
        await session.close()
    await settled(before)

    async def killed() -> bool:
        return "sleep 4242" not in await in_thread(lambda: docker("top", launched.runtime_id))

    await eventually("the end of the commands", killed)


async def test_much_input_and_output_of_a_command(runtime: DockerRuntime) -> None:
    await runtime.launch(launch := launch_of(AppSpec(path="/lab/real/test/web", image=IMAGE, command=("/bin/sleep", "1000"))))
    session = await runtime.exec(launch.key, ExecRequest(("/bin/cat",)))
    block = bytes(range(256)) * 1024

    async def feed() -> None:
        for _ in range(20):
            await session.write(block)
        await session.close_stdin()

    feeder = asyncio.create_task(feed())
    received = b"".join([data async for _, data in session.output()])
    await feeder
    assert received == block * 20
    assert await session.wait() == 0
    await session.close()


async def test_a_container_removed_under_a_follower_ends_the_stream(runtime: DockerRuntime) -> None:
    await runtime.launch(launch := launch_of(AppSpec(path="/lab/real/test/web", image=IMAGE, command=CHATTY)))
    try:
        async with asyncio.timeout(10):
            async for _ in runtime.logs(launch.key, LogOptions(follow=True)):
                await runtime.remove(launch.key)
    except DriverUnavailable as error:
        pytest.fail(f"its end is an end, not a fault: {error}")
