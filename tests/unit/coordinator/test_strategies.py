"""By which strategy an app is placed: its own word, that of its pool, that of the cluster, or the default."""

from __future__ import annotations

from collections import Counter

import pytest

from gestalt.coordinator.balancer import subject_of
from gestalt.coordinator.records import Switches
from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.restoring import fitted
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.strategies import POOLS_SHOWN, Strategies, doubts, settled, told
from gestalt.coordinator.state import SWITCHES, Draft, State, decode
from gestalt.coordinator.store import Document
from gestalt.spec.honour import warnings
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.fleet import settled as settled_fleet
from tests.unit.coordinator.test_restoring import CLUSTER, HEADER, document
from tests.unit.coordinator.test_survey import surveyed
from tests.unit.coordinator.world import node, spec

SAID = Strategies("binpack", {"gpu": "spread", "default": "binpack"})


def asking(strategy: str = "", pool: str = "", instances: int = 4) -> AppSpec:
    return spec(instances=instances, ports=[], checks=[], placement={"strategy": strategy, "pool": pool}, resources={"cpu": 1})


@pytest.mark.parametrize(
    ("strategy", "pool", "said", "expected"),
    [
        ("spread", "gpu", Strategies("binpack", {"gpu": "binpack"}), ("spread", "app")),
        ("binpack", "", Strategies(), ("binpack", "app")),
        ("", "gpu", Strategies("spread", {"gpu": "binpack"}), ("binpack", "pool")),
        ("", "", Strategies("spread", {"default": "binpack"}), ("binpack", "pool")),
        ("", "default", Strategies("", {"default": "binpack"}), ("binpack", "pool")),
        ("", "gpu", Strategies("binpack", {"ssd": "spread"}), ("binpack", "cluster")),
        ("", "", Strategies("", {"gpu": "binpack"}), ("spread", "default")),
    ],
)
def test_the_nearest_word_counts(strategy: str, pool: str, said: Strategies, expected: tuple[str, str]) -> None:
    asked = asking(strategy, pool)
    assert said.of(asked.placement) == expected
    assert (settled(asked, said).placement.strategy or "spread") == expected[0]


def test_who_chose_is_told_unless_it_is_the_app_or_nobody() -> None:
    assert told(asking(pool="gpu").placement, SAID) == "placement.strategy is spread, as was said for pool gpu"
    assert told(asking().placement, SAID) == "placement.strategy is binpack, as was said for pool default"
    assert told(asking(pool="ssd").placement, SAID) == "placement.strategy is binpack, as was said for the whole cluster"
    assert told(asking("spread").placement, SAID) == told(asking().placement, Strategies()) == ""


def test_a_word_is_put_changed_and_taken_back() -> None:
    said = Strategies().put("", "binpack").put("gpu", "spread").put("default", "binpack")
    assert said == SAID
    assert said.put("gpu", "binpack").pools == {"default": "binpack", "gpu": "binpack"}
    assert said.put("gpu", "").put("default", "").put("", "") == Strategies()
    assert said.put("nobody", "") == said


@pytest.mark.parametrize(
    ("pool", "strategy", "pools", "expected"),
    [
        ("gpuu", "spread", ["default", "gpu", "gpu"], ("no node is in pool gpuu: there are nodes in default, gpu",)),
        ("gpuu", "spread", [], ("no node is in pool gpuu: there are no nodes yet",)),
        ("gpu", "spread", ["gpu"], ()),
        ("", "spread", ["gpu"], ()),
        ("gpuu", "", ["gpuu"], ("nothing was said of pool gpuu: something was said of default, gpu",)),
        ("gpu", "", [], ()),
        ("", "", [], ()),
    ],
)
def test_what_looks_like_a_slip_is_told(pool: str, strategy: str, pools: list[str], expected: tuple[str, ...]) -> None:
    assert doubts(SAID, pool, strategy, pools) == expected


def test_of_very_many_pools_some_are_named() -> None:
    (told_of,) = doubts(SAID, "gpuu", "spread", (f"p{number}" for number in range(1000)))
    assert told_of.endswith(f" and {1000 - POOLS_SHOWN} more")
    assert len(told_of) < 500


@pytest.mark.parametrize("large", [0, 100])
def test_what_names_no_strategy_is_placed_as_was_said(large: int) -> None:
    fleet = Fleet(Reservations(), large=large)
    for name in ("n1", "n2", "n3", "n4"):
        fleet.put(node(name))

    def nodes(asked: AppSpec, said: Strategies) -> int:
        return len(Counter(choice.node for choice in place(asked, 4, Ground(fleet, strategies=said)).choices))

    assert nodes(asking(), Strategies()) == 4
    assert nodes(asking(), Strategies("binpack")) == 1
    assert nodes(asking(), Strategies("binpack", {"default": "spread"})) == 4
    assert nodes(asking("spread"), Strategies("binpack")) == 4
    assert nodes(asking("binpack"), Strategies("spread")) == 1


def test_the_survey_and_a_rebalance_know_what_was_said() -> None:
    fleet = settled_fleet(2, 2)
    draft = Draft(fleet.state)
    draft.put(Switches(strategies=Strategies("binpack")))
    fleet.state.apply(draft)
    assert surveyed(fleet).ground().strategies == surveyed(fleet).ground("/none").strategies == Strategies("binpack")
    ((path, app),) = fleet.state.apps.items()
    assert surveyed(fleet).ground(path).strategies == Strategies("binpack")
    assert subject_of(fleet.state, app, frozenset(), stop_first=False).spec.placement.strategy == "binpack"


def test_it_is_kept_and_comes_back_with_an_export_and_older_switches_say_nothing() -> None:
    held = document("switches", SWITCHES, Switches(paused="by ann", strategies=SAID))
    state = State()
    state.load((held,))
    assert state.switches.strategies == SAID
    (restored,) = (decode(each) for each in fitted((held,), HEADER, CLUSTER))
    assert isinstance(restored, Switches)
    assert restored.strategies == SAID
    assert decode(Document("switches", SWITCHES, b'{"paused": "by ann"}', 1)) == Switches(paused="by ann")


def test_a_description_that_says_nothing_says_nothing() -> None:
    assert asking().placement.strategy == ""
    assert not [text for text in warnings(asking()) if "strategy" in text]
