"""What every runtime driver must honour, run against the real product.

A driver subclasses `RuntimeContract` in a module of its own, says which class it tests and how one of its apps looks:

    class TestMyRuntime(RuntimeContract):
        driver = MyRuntime

        def app(self, script, **sections):
            return AppSpec(path="/contract/suite/test/app", runtime="mine", command=("/bin/sh", "-c", script), **sections)

The scripts need nothing but a POSIX shell with echo, sleep, cat, dd, stty and kill.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from gestalt.agent.fence.cgroups import kill_cgroup, pids_in
from gestalt.clock import boottime
from gestalt.config import AgentSettings, TlsSettings
from gestalt.model import PortBinding
from gestalt.plugin.runtime import (
    AttemptKey,
    AttemptState,
    AttemptStatus,
    ExecRequest,
    ExecSession,
    Launch,
    LaunchRefused,
    LogLine,
    LogOptions,
    RuntimeDriver,
    Usage,
)
from gestalt.spec.schema import AppSpec, Resources

T = TypeVar("T")
PATIENCE = 20.0
FOREVER = "while :; do sleep 0.2; done"


async def until(what: str, condition: Callable[[], Awaitable[Any]], limit: float = PATIENCE) -> Any:
    """Return the first true answer of `condition`; at the deadline fail with its last one."""
    seen: Any = None
    try:
        async with asyncio.timeout(limit):
            while True:
                seen = await condition()
                if seen:
                    return seen
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited {limit:g} s for {what}; last seen: {seen!r}")


@asynccontextmanager
async def reading(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Let go of the stream at the end of the block, as a consumer that goes away does."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


async def ended(runtime: RuntimeDriver, key: AttemptKey) -> AttemptStatus:
    async def condition() -> AttemptStatus | None:
        status = await runtime.inspect(key)
        return status if status and status.state is AttemptState.EXITED else None

    status = await until(f"the end of {key}", condition)
    assert isinstance(status, AttemptStatus)
    return status


async def read_logs(runtime: RuntimeDriver, key: AttemptKey, options: LogOptions | None = None) -> list[LogLine]:
    async with asyncio.timeout(PATIENCE), reading(runtime.logs(key, options or LogOptions())) as lines:
        return [line async for line in lines]


async def printed(runtime: RuntimeDriver, key: AttemptKey, lines: int) -> list[LogLine]:
    """Wait until the attempt printed so many lines: a sign that its script got that far."""

    async def condition() -> list[LogLine]:
        seen = await read_logs(runtime, key)
        return seen if len(seen) >= lines else []

    found = await until(f"{lines} lines of {key}", condition)
    return list(found)


async def read_output(session: ExecSession) -> tuple[bytes, bytes]:
    streams = {False: b"", True: b""}
    async with asyncio.timeout(PATIENCE):
        async for is_stderr, data in session.output():
            streams[is_stderr] += data
    return streams[False], streams[True]


async def run_inside(runtime: RuntimeDriver, key: AttemptKey, *command: str) -> tuple[int, bytes, bytes]:
    session = await runtime.exec(key, ExecRequest(command))
    try:
        await session.close_stdin()
        out, err = await read_output(session)
        return await session.wait(), out, err
    finally:
        await session.close()


class RuntimeContract:
    """The contract suite of `RuntimeDriver`."""

    driver: ClassVar[type[RuntimeDriver]]

    def app(self, script: str, **sections: Any) -> AppSpec:
        """Return a description whose instances run `script` with a shell."""
        raise NotImplementedError

    def adapt(self, settings: AgentSettings) -> AgentSettings:
        """Return the settings that this driver needs."""
        return settings

    @pytest.fixture
    def settings(self, tmp_path: Path) -> AgentSettings:
        for name in ("data", "run"):
            (tmp_path / name).mkdir()
        nowhere = tmp_path / "none.pem"
        return self.adapt(
            AgentSettings(
                node_id=str(uuid.uuid4()),
                node_name="contract",
                cluster_id=str(uuid.uuid4()),
                coordinators=("127.0.0.1:7400",),
                tls=TlsSettings(ca=nowhere, certificate=nowhere, key=nowhere),
                data_dir=tmp_path / "data",
                run_dir=tmp_path / "run",
            )
        )

    @pytest.fixture
    async def runtime(self, settings: AgentSettings) -> AsyncIterator[RuntimeDriver]:
        """A started driver; whatever a test launched with its settings is removed afterwards."""
        async with self.another(settings) as runtime:
            try:
                yield runtime
            finally:
                for status in await runtime.list():
                    await runtime.remove(status.key)

    @asynccontextmanager
    async def another(self, settings: AgentSettings) -> AsyncIterator[RuntimeDriver]:
        """A further driver of the same product, as another agent would have it."""
        runtime = self.driver.create(settings)
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.close()

    async def launch(
        self, runtime: RuntimeDriver, script: str, key: AttemptKey | None = None, ports: tuple[PortBinding, ...] = (), **sections: Any
    ) -> AttemptStatus:
        spec = self.app(script, **sections)
        await runtime.prepare(spec, lambda sentence: None)
        return await runtime.launch(self.order(spec, key, ports))

    def order(self, spec: AppSpec, key: AttemptKey | None = None, ports: tuple[PortBinding, ...] = ()) -> Launch:
        return Launch(key or self.key(), app=spec.path, version=3, template="t-123", spec=spec, ports=ports)

    def key(self, attempt: int = 1) -> AttemptKey:
        return AttemptKey(f"app-{uuid.uuid4().hex[:6]}-1", attempt)

    # --- what is there -------------------------------------------------------------------------------------------------

    async def test_probe_tells_the_version(self, runtime: RuntimeDriver) -> None:
        assert (await runtime.probe())["version"]

    async def test_a_launched_attempt_is_listed_and_inspected_alike(self, runtime: RuntimeDriver) -> None:
        key = self.key(attempt=4)
        launched = await self.launch(runtime, FOREVER, key)
        assert launched.state is AttemptState.RUNNING

        listed = await runtime.list()
        assert [(s.key, s.state, s.app, s.template, s.runtime_id) for s in listed] == [
            (key, AttemptState.RUNNING, self.app("true").path, "t-123", launched.runtime_id)
        ]
        inspected = await runtime.inspect(key)
        assert inspected is not None
        assert (inspected.key, inspected.state, inspected.runtime_id) == (key, AttemptState.RUNNING, launched.runtime_id)
        assert inspected.pid > 0

    async def test_nothing_is_known_of_what_never_was(self, runtime: RuntimeDriver) -> None:
        assert await runtime.list() == []
        assert await runtime.inspect(self.key()) is None
        await runtime.stop(self.key(), "SIGTERM", 1.0)
        await runtime.remove(self.key())

    async def test_what_runs_outlives_the_driver_and_is_adopted_by_the_next(self, settings: AgentSettings, runtime: RuntimeDriver) -> None:
        key = self.key()
        async with self.another(settings) as first:
            launched = await self.launch(first, FOREVER, key)
        adopted = await runtime.inspect(key)
        assert adopted is not None
        assert (adopted.state, adopted.runtime_id) == (AttemptState.RUNNING, launched.runtime_id)
        assert [s.key for s in await runtime.list()] == [key]

    @pytest.mark.parametrize("field", ["node_id", "cluster_id"])
    async def test_what_belongs_to_others_is_neither_seen_nor_touched(
        self, settings: AgentSettings, runtime: RuntimeDriver, field: str
    ) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        async with self.another(settings.model_copy(update={field: str(uuid.uuid4())})) as stranger:
            assert await stranger.list() == []
            assert await stranger.inspect(key) is None
            await stranger.stop(key, "SIGKILL", 0.0)
            await stranger.remove(key)
        status = await runtime.inspect(key)
        assert status is not None
        assert status.state is AttemptState.RUNNING

    async def test_an_instance_is_told_who_it_is(self, runtime: RuntimeDriver) -> None:
        key = self.key(attempt=2)
        script = 'echo "$GESTALT_APP $GESTALT_INSTANCE $GESTALT_VERSION $GESTALT_ATTEMPT $GESTALT_NODE $OWN"'
        await self.launch(runtime, script, key, env={"OWN": "two words"})
        await ended(runtime, key)
        assert [line.data for line in await read_logs(runtime, key)] == [
            f"{self.app('true').path} {key.instance} 3 2 contract two words\n".encode()
        ]

    # --- starting ------------------------------------------------------------------------------------------------------

    async def test_the_same_attempt_is_never_started_twice(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        spec = self.app(f"echo started; {FOREVER}")
        await runtime.prepare(spec, lambda sentence: None)
        answers = await asyncio.gather(*(runtime.launch(self.order(spec, key)) for _ in range(4)))
        again = await runtime.launch(self.order(spec, key))
        assert {status.runtime_id for status in answers} == {again.runtime_id}
        assert len(await runtime.list()) == 1
        assert [line.data for line in await printed(runtime, key, 1)] == [b"started\n"]

    async def test_an_ended_attempt_is_not_started_again(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, "exit 7", key)
        await ended(runtime, key)
        again = await self.launch(runtime, "exit 7", key)
        assert (again.state, again.exit_code) == (AttemptState.EXITED, 7)

    async def test_a_missing_program_is_refused_and_leaves_nothing(self, runtime: RuntimeDriver) -> None:
        spec = self.app("true").model_copy(update={"command": ("/no/such/program",), "args": ()})
        with pytest.raises(LaunchRefused, match="/no/such/program"):
            await runtime.launch(self.order(spec))
        assert await runtime.list() == []

    # --- ending --------------------------------------------------------------------------------------------------------

    async def test_the_exit_code_is_kept(self, settings: AgentSettings, runtime: RuntimeDriver) -> None:
        key = self.key()
        async with self.another(settings) as first:
            await self.launch(first, "exit 7", key)
        status = await ended(runtime, key)
        assert (status.exit_code, status.oom_killed) == (7, False)
        assert [(s.key, s.state, s.exit_code) for s in await runtime.list()] == [(key, AttemptState.EXITED, 7)]

    async def test_the_end_of_an_attempt_wakes_the_subscriber(self, runtime: RuntimeDriver) -> None:
        woken: list[AttemptKey | None] = []
        runtime.subscribe(woken.append)
        key = self.key()
        await self.launch(runtime, "read line", key)
        await ended(runtime, key)

        async def condition() -> bool:
            return key in woken

        await until("a wake-up", condition)

    async def test_stop_sends_the_signal_and_keeps_the_answer(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, f"trap 'exit 3' USR1; echo ready; {FOREVER}", key)
        await printed(runtime, key, 1)
        await runtime.stop(key, "SIGUSR1", 10.0)
        status = await runtime.inspect(key)
        assert status is not None
        assert (status.state, status.exit_code) == (AttemptState.EXITED, 3)
        await runtime.stop(key, "SIGUSR1", 10.0)

    async def test_stop_kills_after_the_grace(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, f"trap '' TERM; echo ready; {FOREVER}", key)
        await printed(runtime, key, 1)
        await runtime.stop(key, "SIGTERM", 0.3)
        status = await runtime.inspect(key)
        assert status is not None
        assert (status.state, status.exit_code, status.oom_killed) == (AttemptState.EXITED, 137, False)

    async def test_remove_leaves_nothing_even_of_what_runs(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        await runtime.remove(key)
        assert await runtime.inspect(key) is None
        assert await runtime.list() == []
        await runtime.remove(key)

    async def test_out_of_memory_is_told_apart(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        hog = "exec dd if=/dev/zero of=/dev/null bs=200000000 count=1"
        await self.launch(runtime, hog, key, resources=Resources(memory=32 * 1024**2))
        status = await ended(runtime, key)
        assert (status.exit_code, status.oom_killed) == (137, True)
        assert [s.oom_killed for s in await runtime.list()] == [True]

    async def test_what_is_confined_is_all_in_the_cgroups_that_were_named_before(self, runtime: RuntimeDriver) -> None:
        """And whoever knows them can end it without the driver, which then says so."""
        spec = self.app("sleep 1000 & sleep 1000; :")
        launch = replace(self.order(spec), confined=True)
        await runtime.prepare(spec, lambda sentence: None)
        named = [Path(item) for item in await runtime.cgroups(launch.key)]
        assert not any(map(pids_in, named))
        await runtime.launch(launch)

        async def populated() -> bool:
            return all(len(pids_in(item)) >= 3 for item in named if item.exists())

        await until("all of it in each cgroup that is used", populated)
        assert any(item.exists() for item in named)
        assert [*await runtime.cgroups(launch.key)] == [*map(str, named)]
        for item in named:
            assert kill_cgroup(item, boottime() + PATIENCE)
        assert (await ended(runtime, launch.key)).state is AttemptState.EXITED
        await runtime.remove(launch.key)
        assert not any(item.exists() for item in named)

    # --- logs ----------------------------------------------------------------------------------------------------------

    async def test_logs_are_whole_lines_in_order_of_both_streams(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo three; printf rest", key)
        await ended(runtime, key)
        lines = await read_logs(runtime, key)
        assert [(line.data, line.stderr) for line in lines] == [
            (b"one\n", False),
            (b"two\n", True),
            (b"three\n", False),
            (b"rest", False),
        ]

    async def test_logs_tail_since_and_timestamps(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, "for n in 1 2 3 4; do echo $n; done", key)
        await ended(runtime, key)
        assert [line.data for line in await read_logs(runtime, key, LogOptions(tail=2))] == [b"3\n", b"4\n"]
        assert len(await read_logs(runtime, key, LogOptions(since=3600))) == 4
        assert await read_logs(runtime, key, LogOptions(since=1e-6)) == []
        (stamped, *_) = await read_logs(runtime, key, LogOptions(timestamps=True))
        stamp, _, rest = stamped.data.partition(b" ")
        assert rest == b"1\n"
        assert stamp[4:5] == b"-"
        assert b"T" in stamp

    async def test_a_very_long_line_is_one_line(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, "line=x; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do line=$line$line; done; echo $line", key)
        await ended(runtime, key)
        for timestamps in (False, True):
            lines = await read_logs(runtime, key, LogOptions(timestamps=timestamps))
            assert len(lines) == 1
            assert lines[0].data.endswith(b"x" * 65536 + b"\n")

    async def test_following_ends_with_the_attempt(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, f"trap 'echo bye; exit 0' TERM; echo hello; {FOREVER}", key)
        seen: list[bytes] = []
        async with asyncio.timeout(PATIENCE), reading(runtime.logs(key, LogOptions(follow=True))) as lines:
            async for line in lines:
                seen.append(line.data)
                if line.data == b"hello\n":
                    await runtime.stop(key, "SIGTERM", 10.0)
        assert seen == [b"hello\n", b"bye\n"]

    async def test_logs_of_what_never_was_say_so(self, runtime: RuntimeDriver) -> None:
        with pytest.raises(LaunchRefused):
            await read_logs(runtime, self.key())

    # --- exec ----------------------------------------------------------------------------------------------------------

    async def test_exec_gives_both_streams_and_the_exit_code(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        assert await run_inside(runtime, key, "/bin/sh", "-c", "echo out; echo err >&2; exit 5") == (5, b"out\n", b"err\n")
        assert (await run_inside(runtime, key, "/bin/sh", "-c", "kill -9 $$"))[0] == 137

    async def test_exec_reads_standard_input_until_it_is_closed(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        session = await runtime.exec(key, ExecRequest(("/bin/sh", "-c", "cat; echo $EXTRA"), env={"EXTRA": "end"}))
        await session.write(b"first\n")
        await session.write(b"second\n")
        await session.close_stdin()
        assert await read_output(session) == (b"first\nsecond\nend\n", b"")
        assert await session.wait() == 0
        with pytest.raises(BrokenPipeError):
            await session.write(b"late")
        await session.close()
        await session.close()

    async def test_exec_with_a_terminal_knows_its_size(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        # a product may set the size a moment after the start, as `docker exec -it` does
        script = 'until [ "$(stty size 2>/dev/null)" = "11 77" ]; do sleep 0.1; done; echo sized; read line; stty size'
        request = ExecRequest(("/bin/sh", "-c", script), tty=True, rows=11, columns=77)
        session = await runtime.exec(key, request)
        output = b""
        async with asyncio.timeout(PATIENCE):
            async for is_stderr, data in session.output():
                assert not is_stderr
                output += data
                if output == b"sized\r\n":
                    await session.resize(33, 99)
                    await session.write(b"\n")
        assert output.split() == [b"sized", b"33", b"99"]
        assert await session.wait() == 0
        await session.close()

    async def test_exec_that_is_closed_early_is_killed(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        session = await runtime.exec(key, ExecRequest(("/bin/sh", "-c", "echo $$; exec sleep 4242")))
        async with asyncio.timeout(PATIENCE), reading(session.output()) as output:
            _, pid = await anext(output)
        await session.close()

        async def gone() -> bool:
            return (await run_inside(runtime, key, "/bin/sh", "-c", f"kill -0 {int(pid)} 2>/dev/null"))[0] != 0

        await until("the end of the closed command", gone)

    async def test_exec_is_refused_where_it_cannot_work(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        with pytest.raises(LaunchRefused):
            await runtime.exec(self.key(), ExecRequest(("true",)))
        await runtime.stop(key, "SIGKILL", 0.0)
        with pytest.raises(LaunchRefused):
            await runtime.exec(key, ExecRequest(("true",)))

    async def test_exec_of_a_missing_command_is_refused(self, runtime: RuntimeDriver) -> None:
        key = self.key()
        await self.launch(runtime, FOREVER, key)
        with pytest.raises(LaunchRefused, match="/no/such/program"):
            await runtime.exec(key, ExecRequest(("/no/such/program",)))

    async def test_usage_is_that_of_all_that_runs_in_an_attempt(self, runtime: RuntimeDriver) -> None:
        busy, idle = self.key(), self.key()
        await self.launch(runtime, "dd if=/dev/zero of=/dev/null bs=64M & wait", busy)
        await self.launch(runtime, "sleep 1000", idle)

        async def allocated() -> Mapping[AttemptKey, Usage]:
            found = await runtime.usage([busy, idle])
            return found if len(found) == 2 and found[busy].memory > 60 * 1024**2 else {}

        first = await until("its memory to be seen", allocated)

        async def later() -> Mapping[AttemptKey, Usage]:
            """Two seconds on: a shorter time says little of how busy something is."""
            found = await allocated()
            return found if found and found[busy].at >= first[busy].at + 2 else {}

        second = await until("another measurement", later)
        cores = {key: (second[key].cpu - first[key].cpu) / (second[key].at - first[key].at) for key in (busy, idle)}
        assert 0.02 < cores[busy] < 1.2, "one busy loop has a core, or what a busy machine leaves of it"
        assert cores[idle] < 0.1
        assert second[busy].memory < 100 * 1024**2
        assert second[idle].memory < 20 * 1024**2
        await runtime.stop(busy, "SIGKILL", 0.0)
        await ended(runtime, busy)
        assert set(await runtime.usage([busy, idle, self.key()])) == {idle}, "of what does not run nothing is said"
