"""What the agent has ready before anything stops for it, and what it tells of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.agent import preparing
from gestalt.agent.board import Board
from gestalt.agent.desired import Desired
from gestalt.agent.intake import take_in
from gestalt.agent.preparing import Preparing
from gestalt.model import NodeState, Phase
from gestalt.proto.v1 import agent_pb2
from gestalt.spec.schema import AppSpec, ImagePull
from gestalt.spec.template import template_hash
from gestalt.wire import to_wire
from tests.unit.agent.agent_life import ONE as INSTANCE
from tests.unit.agent.agent_life import Life, wish
from tests.unit.agent.memory_runtime import MemoryRuntime, World

ONE = AppSpec(path="/unit/test/agent/one", image="web:1")
TWO = AppSpec(path="/unit/test/agent/two", image="absent:1")


class Ready:
    """The one under test with its board, and the world that it prepares."""

    def __init__(self) -> None:
        self.world, self.board = World(), Board()
        self.preparing = Preparing({"docker": MemoryRuntime(self.world)}, self.board)

    def want(self, *specs: AppSpec, number: int = 1) -> None:
        keys = {template_hash(spec): spec for spec in specs}
        self.preparing.set_desired(Desired(NodeState(1, 1, templates=keys, prepare=dict.fromkeys(keys, number))))

    def told(self, spec: AppSpec = ONE) -> agent_pb2.Preparation:
        return self.board.prepared.value.templates[template_hash(spec)]

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(5):
                while not condition():  # noqa: ASYNC110 - what is waited for raises no event
                    await asyncio.sleep(0.002)
        except TimeoutError:
            pytest.fail(f"waited 5 s; what is told is:\n{self.board.prepared.value}")


@pytest.fixture
async def ready(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ready]:
    monkeypatch.setattr(preparing, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(preparing, "RETRY_REFUSED", 0.01)
    ready = Ready()
    yield ready
    await ready.preparing.close()


async def test_what_is_there_is_done_and_told_once_for_each_session(ready: Ready) -> None:
    ready.want(ONE, number=7)
    assert (ready.told().number, ready.told().done) == (7, False)
    await ready.until(lambda: ready.told().done)
    assert ready.board.prepared.take() is not None
    assert ready.board.prepared.take() is None
    again = ready.board.prepared.take(always=True)
    assert again is not None
    assert again.templates[template_hash(ONE)].done
    ready.want()
    assert not ready.board.prepared.value.templates


async def test_what_is_under_way_is_told_and_a_new_request_begins_anew(ready: Ready) -> None:
    ready.world.slow = asyncio.Event()
    ready.want(ONE)
    await ready.until(lambda: ready.told().reason == "pulls web:1: 50 %")
    ready.world.slow.set()
    await ready.until(lambda: ready.told().done)
    asked = ready.world.registry_asked
    other = ONE.model_copy(update={"command": ("other",)})
    ready.want(ONE, other)
    await ready.until(lambda: ready.told(other).done)
    assert (ready.told().done, ready.world.registry_asked) == (True, asked + 1), "the same request is not done twice, but the other one"
    ready.want(ONE, number=2)
    assert not ready.told().done
    await ready.until(lambda: ready.told().done)
    assert (ready.told().number, ready.world.registry_asked) == (2, asked + 2)


async def test_what_cannot_be_had_is_refused_with_the_reason_until_it_can(ready: Ready) -> None:
    ready.want(ONE, TWO)
    await ready.until(lambda: ready.told(TWO).refused)
    assert ready.told(TWO).reason == "the image absent:1 is absent"
    await ready.until(lambda: ready.told(ONE).done)
    ready.world.images = {*ready.world.images, "absent:1"}
    await ready.until(lambda: ready.told(TWO).done)
    assert not ready.told(TWO).refused


async def test_a_registry_that_does_not_answer_is_asked_again(ready: Ready) -> None:
    ready.world.registry_down = True
    ready.want(ONE)
    await ready.until(lambda: ready.told().reason == "the registry does not answer")
    assert not ready.told().refused
    ready.world.registry_down = False
    await ready.until(lambda: ready.told().done)


async def test_a_folder_of_the_node_has_to_be_there(ready: Ready, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    spec = ONE.model_copy(update={"volumes": AppSpec.model_validate(
        {"path": ONE.path, "image": "web:1", "volumes": [{"host_path": str(folder), "target": "/data"}]}
    ).volumes})  # fmt: skip
    ready.want(spec)
    await ready.until(lambda: ready.told(spec).refused)
    assert ready.told(spec).reason.startswith(f"there is no {folder} on this node (volumes[0].host_path)")
    folder.mkdir()
    await ready.until(lambda: ready.told(spec).done)


async def test_a_pull_before_each_start_is_not_done_twice_for_one(ready: Ready) -> None:
    spec = ONE.model_copy(update={"pull": ImagePull(policy="always")})
    ready.want(spec, TWO)
    assert not ready.preparing.use(template_hash(spec))
    await ready.until(lambda: ready.told(spec).done and ready.told(TWO).refused)
    ready.want()
    assert [ready.preparing.use(template_hash(spec)) for _ in range(2)] == [True, False]
    assert not ready.preparing.use(template_hash(TWO))
    ready.want(ONE)
    await ready.until(lambda: ready.told().done)
    assert not ready.preparing.use(template_hash(ONE)), "one look at what is there costs nothing"


async def test_what_was_pulled_for_a_start_starts_without_its_registry(tmp_path: Path) -> None:
    life = Life(World(), tmp_path)
    desired = wish(INSTANCE, pull=ImagePull(policy="always"))
    (template,) = desired.state.templates
    life.preparing.set_desired(Desired(replace(desired.state, instances={}, prepare={template: 1}), complete=True))
    await life.until("the image", lambda: life.board.prepared.value.templates[template].done)
    life.world.registry_down = True
    await life.begin(desired)
    await life.until("it to run", lambda: life.at(INSTANCE, Phase.RUNNING, 1))
    assert life.world.registry_asked == 1
    await life.preparing.close()
    await life.kill()


async def test_a_runtime_that_is_not_enabled_is_named(ready: Ready) -> None:
    spec = AppSpec(path=ONE.path, runtime="process", command=("x",))
    ready.want(spec)
    await ready.until(lambda: ready.told(spec).refused)
    assert ready.told(spec).reason == "the runtime 'process' is not enabled on this node"


def test_a_template_that_is_missing_is_a_problem_and_spoils_nothing_else() -> None:
    good, bad = template_hash(ONE), "0" * 16
    message = to_wire(NodeState(1, 1, templates={good: ONE}, prepare={good: 1, bad: 1}), agent_pb2.NodeState)
    taken = take_in(message, {})
    assert taken.state.prepare == {good: 1}
    assert taken.problems == (f"template {bad!r} is not prepared: it is missing",)
