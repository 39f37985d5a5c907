"""Rebalancing: what is moved and why, that it makes the cluster better and never worse, and that it comes to an end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.rebalance import Elsewhere, Search, Subject, obstacle, plan, told
from gestalt.coordinator.records import Move, Placed
from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.attributes import holds
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.world import node, spec


def subject(name: str, homes: str, may_move: bool = True, cpu: float = 1.0, **placement: object) -> Subject:
    """An app with an instance on each of these nodes, which have names of one letter."""
    described = spec(
        path=f"/o/w/e/{name}", instances=len(homes), ports=[], checks=[], resources={"cpu": cpu, "memory": 0}, placement=placement
    )
    return Subject(described.path, described, tuple(Placed(number, 1, home, ()) for number, home in enumerate(homes, 1)), may_move)


def cluster(subjects: list[Subject], names: str = "abc", cpu: float = 8.0, **racks: str) -> list[Capacity]:
    """The nodes with what is reserved on them."""
    used: Counter[str] = Counter()
    for item in subjects:
        for placed in item.placed:
            used[placed.node] += item.spec.resources.cpu  # type: ignore[assignment]
    return [
        node(name, cpu=cpu, memory=0, cpu_reserved=float(used[name]), attributes={"rack": racks[name]} if name in racks else {})
        for name in names
    ]


def ground(nodes: list[Capacity], large: int = 100) -> Ground:
    """The nodes as one app finds them."""
    fleet = Fleet(Reservations(), large=large)
    for item in nodes:
        fleet.put(item)
    return Ground(fleet, {item.id: item.same_app for item in nodes if item.same_app}, instead={item.id: item for item in nodes})


def made(subjects: list[Subject], moves: tuple[Move, ...]) -> list[Subject]:
    """The apps after the moves."""
    where = {(move.app, move.serial): move.target for move in moves}
    return [
        replace(item, placed=tuple(replace(one, node=where.get((item.path, one.serial), one.node)) for one in item.placed))
        for item in subjects
    ]


def test_what_stands_on_one_node_goes_apart_and_says_why() -> None:
    subjects = [subject("web", "aa")]
    (move,) = plan(subjects, cluster(subjects))
    assert (move.app, move.serial, move.source, move.target) == ("/o/w/e/web", 2, "a", "b")
    assert move.why == "apart -5.00 -> 0.00, fit 0.51 -> 0.72"
    assert move.gain > 10, "both of them stand apart then"


def test_a_new_node_takes_its_share_and_a_second_time_nothing_moves() -> None:
    subjects = [subject(f"app{number}", "ab"[number % 2]) for number in range(8)]
    moves = plan(subjects, cluster(subjects))
    assert {move.target for move in moves} == {"c"}
    after = made(subjects, moves)
    loads = Counter(item.placed[0].node for item in after)
    assert sorted(loads.values()) == [2, 3, 3]
    assert plan(after, cluster(after)) == ()


def test_packing_empties_nodes() -> None:
    subjects = [subject("one", "a", strategy="binpack", cpu=2.0), subject("two", "b", strategy="binpack", cpu=4.0)]
    (move,) = plan(subjects, cluster(subjects))
    assert (move.app, move.source, move.target) == ("/o/w/e/one", "a", "b")
    after = made(subjects, (move,))
    assert plan(after, cluster(after)) == ()


def test_affinities_and_spreads_count() -> None:
    likes = subject("web", "a", affinities=[{"attribute": "rack", "value": "r2"}])
    (move,) = plan([likes], cluster([likes], a="r1", b="r2", c="r1"))
    assert (move.target, move.why) == ("b", "affinities 0.00 -> 5.00")
    wide = subject("wide", "ab", spread=[{"attribute": "rack"}])
    (move,) = plan([wide], cluster([wide], a="r1", b="r1", c="r2"))
    assert move.target == "c"
    assert move.why == "spread rack -5.00 -> 0.00"


def test_what_gains_too_little_stays() -> None:
    subjects = [subject(name, home, cpu=0.1) for name, home in (("one", "a"), ("two", "a"), ("three", "b"))]
    assert plan(subjects, cluster(subjects)) == ()
    assert len(plan(subjects, cluster(subjects), min_gain=0.001)) == 1


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_no_more_moves_than_the_budget_the_best_first(budget: int) -> None:
    subjects = [subject("few", "aa"), subject("many", "bbbb")]
    moves = plan(subjects, cluster(subjects), budget)
    assert len(moves) == budget
    assert moves[0].app == "/o/w/e/many"
    search = Search(subjects, cluster(subjects), budget, 0.1)
    assert not any(search.run())
    assert search.may_be_more
    late = Search(subjects, cluster(subjects), budget, 0.1)
    for looked_at, _ in enumerate(late.run()):
        late.is_late = looked_at >= 1
    assert [move.app for move in late.moves] == ["/o/w/e/few"], "what was looked at by then has to do"
    assert late.may_be_more
    over = Search(subjects, cluster(subjects), 10, 0.1)
    for step, _ in enumerate(over.run()):
        over.is_late = over.is_over = step > 0
    assert (over.moves, over.looked_at, over.places) == ((), 1, 2)


def test_what_may_not_move_stays_and_still_counts() -> None:
    subjects = [subject("still", "aaa", may_move=False), subject("web", "a")]
    (move,) = plan(subjects, cluster(subjects))
    assert move.app == "/o/w/e/web"


@pytest.mark.parametrize(("change", "words"), [
    ({"ready": False, "why_not": "is cordoned"}, "is cordoned"),
    ({"cpu_reserved": 7.5}, "has 0.5 of 8 cores left, 1 are asked for"),
])  # fmt: skip
def test_nothing_moves_where_it_may_not_be(change: dict[str, object], words: str) -> None:
    subjects = [subject("web", "aa")]
    nodes = [replace(item, **change) if item.id != "a" else item for item in cluster(subjects)]  # type: ignore[arg-type]
    assert plan(subjects, nodes) == ()
    assert obstacle(subjects[0].spec, subjects[0].placed[0], ground(nodes), "b") == words


def test_nothing_moves_away_from_a_node_that_is_not_ready() -> None:
    subjects = [subject("web", "aa")]
    nodes = [replace(item, ready=item.id != "a", why_not="is draining") for item in cluster(subjects)]
    assert plan(subjects, nodes) == ()


def test_nothing_moves_to_those_from_whom_it_is_kept_apart() -> None:
    web, db, cache = subject("web", "aaa"), subject("db", "b"), subject("cache", "c", may_move=False)
    apart = [replace(web, apart=frozenset({db.path, "/o/w/e/elsewhere"})), replace(db, apart=frozenset({web.path})), cache]
    nodes = cluster(apart, "abcd")
    elsewhere = {"/o/w/e/elsewhere": Elsewhere(counts=frozenset({"d", "gone"}))}
    search = Search(apart, nodes, 10, 0.1, elsewhere)
    for _ in search.run():
        pass
    assert {(move.app, move.target) for move in search.moves} == {("/o/w/e/web", "c")}


def test_nothing_moves_to_where_room_is_kept_for_those_from_whom_it_is_kept_apart() -> None:
    web, db = subject("web", "aaa"), subject("db", "b")
    apart = [replace(web, apart=frozenset({db.path})), replace(db, apart=frozenset({web.path}))]
    for kept, targets in (("", {"c", "d"}), ("c", {"d"}), ("cd", set[str]())):
        search = Search(apart, cluster(apart, "abcd"), 10, 0.1, {db.path: Elsewhere(counts=frozenset(kept))})
        for _ in search.run():
            pass
        assert {move.target for move in search.moves if move.app == web.path} == targets


@given(st.lists(st.text("abcd", min_size=1, max_size=5), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 30))
def test_searches_that_are_cut_off_go_on_until_everything_was_looked_at(homes: list[str], share: int, begun: int) -> None:
    subjects = [subject(f"app{number}", there) for number, there in enumerate(homes)]
    nodes = cluster(subjects, "abcd", cpu=64.0)
    places = sorted({(item.path, placed.node) for item in subjects for placed in item.placed})
    seen, after = set(), places[begun % len(places)]
    for _ in range(-(-len(places) // share)):
        search = Search(subjects, nodes, 10, 1000.0, after=after)
        for looked_at, _ in enumerate(search.run()):
            search.is_late = looked_at >= share
        first = places.index(after) + 1
        seen |= {places[(first + number) % len(places)] for number in range(search.looked_at)}
        after = search.reached
    assert seen == set(places)


def test_where_a_search_begins_changes_nothing_of_what_it_finds() -> None:
    subjects = [subject("few", "aa"), subject("many", "bbbb"), subject("web", "abc", strategy="binpack")]
    found = [Search(subjects, cluster(subjects), 10, 0.1, after=after) for after in (("", ""), ("/o/w/e/many", "b"), ("/z", "z"))]
    for search in found:
        for _ in search.run():
            pass
    assert found[0].moves
    assert found[0].moves == found[1].moves == found[2].moves


def test_what_stood_together_already_stays_unless_it_stands_better_elsewhere() -> None:
    web, db = subject("web", "a"), subject("db", "a")
    together = [replace(web, apart=frozenset({db.path})), replace(db, apart=frozenset({web.path}))]
    assert plan(together, cluster(together, "a")) == ()
    (move,) = plan(together, cluster(together, "ab"))
    assert move.target == "b"


def test_an_instance_is_not_in_its_own_way() -> None:
    alone = subject("web", "ab", constraints=[{"operator": "unique"}])
    seen = [named(replace(item, same_app=int(item.id in "ab"))) for item in cluster([alone])]
    for large in (0, 100):
        assert obstacle(alone.spec, alone.placed[0], ground(seen, large), "c") == ""
        assert "is in node.name b" in obstacle(alone.spec, alone.placed[0], ground(seen, large), "b")


def named(item: Capacity) -> Capacity:
    return replace(item, attributes={**item.attributes, "node.name": item.id})


def test_points_that_do_not_change_are_not_told() -> None:
    assert (
        told({"fit": 0.5, "apart": -5.0, "spread rack": 1.0}, {"fit": 0.504, "apart": -2.5})
        == "apart -5.00 -> -2.50, spread rack 1.00 -> 0.00"
    )


_HOMES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=5).map("".join)
_PLACEMENT = st.sampled_from([
    {}, {"strategy": "binpack"}, {"spread": [{"attribute": "rack"}]},
    {"constraints": [{"attribute": "rack", "operator": "max-per", "value": "3"}]},
    {"affinities": [{"attribute": "rack", "value": "r1", "weight": 20}]}, {"constraints": [{"attribute": "rack", "value": "r2"}]},
    {"constraints": [{"attribute": "rack", "operator": "group-by"}]},
])  # fmt: skip
_APPS = st.lists(st.tuples(_HOMES, _PLACEMENT, st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.booleans()), min_size=1, max_size=6)
_PAIRS = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=3)
_RACKS = {"a": "r1", "b": "r1", "c": "r2", "d": "r2"}


def breaches(item: Subject) -> int:
    """How badly an app's constraints are broken; what was placed before they were may break them."""
    racks = Counter(_RACKS[placed.node] for placed in item.placed)
    broken = 0
    for constraint in item.spec.placement.constraints:
        match constraint.operator:
            case "max-per":
                broken += sum(max(0, count - 3) for count in racks.values())
            case "group-by":
                broken += max(0, abs(racks["r1"] - racks["r2"]) - 1)
            case _:
                broken += sum(not holds(constraint, {"rack": _RACKS[placed.node]}) for placed in item.placed)
    return broken


def kept_apart(subjects: list[Subject], pairs: set[tuple[int, int]]) -> list[Subject]:
    """The apps, some of which share no node."""
    paths = [item.path for item in subjects]
    named = [(paths[one % len(paths)], paths[other % len(paths)]) for one, other in pairs]
    both = {(one, other) for pair in named for one, other in (pair, pair[::-1]) if one != other}
    return [replace(item, apart=frozenset(other for one, other in both if one == item.path)) for item in subjects]


def neighbours(subjects: list[Subject]) -> set[tuple[str, int, str, str]]:
    """Which instances stand on a node with an app from which theirs is kept apart."""
    on = {item.path: {placed.node for placed in item.placed} for item in subjects}
    return {
        (item.path, placed.serial, placed.node, other)
        for item in subjects
        for placed in item.placed
        for other in item.apart
        if placed.node in on.get(other, ())
    }


@settings(max_examples=150, deadline=None)
@given(_APPS, st.sampled_from([0.02, 0.1, 0.5]), _PAIRS)
def test_it_ends_makes_nothing_worse_and_the_second_time_nothing_moves(
    apps: list[tuple[str, dict[str, object], float, bool]], least: float, pairs: set[tuple[int, int]]
) -> None:
    drawn = [subject(f"app{number}", homes, may, cpu, **placement) for number, (homes, placement, cpu, may) in enumerate(apps)]
    subjects = kept_apart(drawn, pairs)
    nodes = cluster(subjects, "abcd", **_RACKS)
    nodes = [named(replace(item, cpu=max(item.cpu, item.cpu_reserved))) for item in nodes]
    search = Search(subjects, nodes, 1000, least)
    before = search.score
    for _ in search.run():
        pass
    assert search.score >= before + least * bool(search.moves) - 1e-6
    by_columns = Search(subjects, nodes, 1000, least, large=0)
    for _ in by_columns.run():
        pass
    assert by_columns.moves == search.moves, "whether nodes are looked at one by one or as columns"
    after = made(subjects, search.moves)
    for item, was in zip(after, subjects, strict=True):
        assert breaches(item) <= breaches(was)
        assert item == was or was.may_move
    assert neighbours(after) <= neighbours(subjects), "whom it may not stand with it did not join"
    full = [replace(item, cpu_reserved=new.cpu_reserved) for item, new in zip(nodes, cluster(after, "abcd", **_RACKS), strict=True)]
    assert all(item.cpu_reserved <= item.cpu + 1e-6 for item in full)
    assert plan(after, full, 1000, least) == ()


@settings(max_examples=60, deadline=None)
@given(_APPS, st.integers(1, 4), _PAIRS)
def test_in_its_order_each_move_finds_room(
    apps: list[tuple[str, dict[str, object], float, bool]], budget: int, pairs: set[tuple[int, int]]
) -> None:
    drawn = [subject(f"app{number}", homes, may, cpu, **placement) for number, (homes, placement, cpu, may) in enumerate(apps)]
    subjects = kept_apart(drawn, pairs)
    sized = {item.id: max(item.cpu, item.cpu_reserved) for item in cluster(subjects, "abcd")}
    described: dict[str, AppSpec] = {item.path: item.spec for item in subjects}
    for move in plan(subjects, [replace(item, cpu=sized[item.id]) for item in cluster(subjects, "abcd", **_RACKS)], budget):
        nodes = [replace(item, cpu=sized[item.id]) for item in cluster(subjects, "abcd", **_RACKS)]
        (placed,) = (one for item in subjects if item.path == move.app for one in item.placed if one.serial == move.serial)
        assert placed.node == move.source
        there = Counter(one.node for item in subjects if item.path == move.app for one in item.placed)
        there[move.source] -= 1
        freed = [
            replace(item, cpu_reserved=item.cpu_reserved - described[move.app].resources.cpu * (item.id == move.source)) for item in nodes
        ]
        only = tuple(replace(item, same_app=there[item.id], ready=item.id == move.target) for item in freed)
        assert not place(described[move.app], 1, only).missing
        (apart,) = (item.apart for item in subjects if item.path == move.app)
        assert not any(placed.node == move.target for item in subjects if item.path in apart for placed in item.placed)
        subjects = made(subjects, (move,))
