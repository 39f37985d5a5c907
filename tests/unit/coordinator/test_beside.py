"""Other apps by label, and as a wish: beside whom an app would rather stand, or rather not, and with whom it shares no node."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.balancer import elsewhere, subject_of
from gestalt.coordinator.beside import all_rivals, avoided, nodes_beside, rivals
from gestalt.coordinator.labelled import Labelled
from gestalt.coordinator.rebalance import Elsewhere, Search, Subject, plan
from gestalt.coordinator.records import App, Placed, Placements, Version
from gestalt.coordinator.scheduler.place import place, points_of
from gestalt.coordinator.state import Draft, State
from gestalt.errors import GestaltError
from gestalt.spec.honour import unhonoured, warnings
from gestalt.spec.load import validate_spec
from gestalt.spec.schema import AppSpec
from gestalt.spec.selection import means
from tests.unit.coordinator.test_apart import ready
from tests.unit.coordinator.test_restoring import document
from tests.unit.coordinator.test_survey import surveyed
from tests.unit.coordinator.world import AT, node, spec

WEB, DB, CACHE, BATCH = (f"/o/w/e/{name}" for name in ("web", "db", "cache", "batch"))


def app(path: str, labels: dict[str, str] | None = None, instances: int = 1, **placement: object) -> AppSpec:
    return spec(path=path, labels=labels or {}, ports=[], checks=[], instances=instances, placement=placement, resources={"cpu": 0.1})


def put(state: State, asked: AppSpec, *nodes: str, stop: bool = False, ended: bool = False) -> None:
    """Have instances of an app on some nodes."""
    draft = Draft(state)
    draft.put_version(Version(asked.path, 1, "hash", asked, AT, "me"))
    draft.put_app(App(asked.path, "bbbbbb", 0, 1, 0, 1, len(nodes), AT))
    placed = (Placed(serial, 1, name, (), stop=stop, ended=ended) for serial, name in enumerate(nodes, 1))
    draft.put_placements(Placements(asked.path, tuple(placed)))
    state.apply(draft)


def wish(apps: str, weight: int = 50) -> dict[str, object]:
    return {"apps": apps, "weight": weight}


@pytest.mark.parametrize(
    ("text", "labels", "is_meant"),
    [
        (DB, {}, True),
        ("/o/w/e/d", {}, False),
        ("tier=db", {"tier": "db", "team": "shop"}, True),
        ("tier=db", {"tier": "web"}, False),
        ("tier=db", {}, False),
        ("team=shop,tier=db", {"tier": "db", "team": "shop"}, True),
        ("team=shop,tier=db", {"tier": "db"}, False),
        ("key=a=b", {"key": "a=b"}, True),
    ],
)
def test_apps_are_meant_by_path_or_by_all_of_some_labels(text: str, labels: dict[str, str], is_meant: bool) -> None:
    assert means(text, DB, labels) == is_meant


def test_how_other_apps_are_named_is_kept_in_one_form() -> None:
    asked = app(WEB, apart_from=["tier = db , team=shop", DB], beside=[{"apps": "tier=db"}])
    assert asked.placement.apart_from == ("team=shop,tier=db", DB)
    assert (asked.placement.beside[0].apps, asked.placement.beside[0].weight) == ("tier=db", 50)
    assert unhonoured(asked) == ()


ALLOWED = "the path of an app, or labels that apps have: name=value, several with commas between"


@pytest.mark.parametrize(
    ("placement", "complaint"),
    [
        ({"beside": [{"apps": "web"}]}, f"placement.beside[0].apps is 'web'; allowed: {ALLOWED}"),
        ({"beside": [{"apps": "tier="}]}, "is 'tier='"),
        ({"beside": [{"apps": ""}]}, "placement.beside[0].apps is empty"),
        ({"beside": [{"weight": 5}]}, "placement.beside[0].apps"),
        ({"beside": [{"apps": "tier=a,tier=b"}]}, "asks for two values of one label"),
        ({"beside": [{"apps": DB, "weight": 101}]}, "a whole number from -100 to 100"),
        ({"beside": [{"apps": "/o/w/e"}]}, "is '/o/w/e'; allowed: /org/workspace/environment/app"),
        ({"beside": [{"apps": WEB}]}, "placement.beside[0].apps is the app itself"),
        ({"beside": [wish("a=b"), wish("a=b", -1)]}, "placement.beside[1] is 'a=b', as item 0 is already"),
        ({"apart_from": ["tier"]}, f"placement.apart_from[0] is 'tier'; allowed: {ALLOWED}"),
    ],
)
def test_what_means_nobody_is_refused(placement: dict[str, object], complaint: str) -> None:
    with pytest.raises(GestaltError) as caught:
        validate_spec({"path": WEB, "image": "web:1", "placement": placement})
    assert complaint in caught.value.message + "".join(
        f"{item.field} {item.problem}; allowed: {item.allowed}" for item in caught.value.details
    )


def test_a_system_app_is_told_that_wishes_change_nothing() -> None:
    assert [text for text in warnings(validate_spec({"path": WEB, "image": "web:1", "kind": "system", "placement": {"beside": [wish(DB)]}}))
            if "beside" in text]  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "strategy", "expected"),
    [((), "spread", 1.0), ((50,), "spread", 6.0), ((-30,), "spread", -2.0), ((100, -40), "binpack", 6.0), ((7,), "binpack", 0.7)],
)
def test_the_points_of_a_wish_are_a_tenth_of_its_weight(weights: tuple[int, ...], strategy: str, expected: float) -> None:
    """Whatever the number of instances; an empty node is worth 1 to what is spread, and 0 to what is packed."""
    state, asked = (
        State(),
        app(WEB, strategy=strategy, beside=[wish(path, weight) for path, weight in zip((DB, CACHE), weights, strict=False)]),
    )
    for path in (DB, CACHE):
        put(state, app(path), "n1", "n1", "n1")
    there = node(cpu=1e9, beside=nodes_beside(state, WEB, asked).get("n1", 0))
    assert points_of(asked, there) == pytest.approx(expected, abs=1e-3)


def test_an_app_goes_where_it_would_rather_be_and_leaves_where_it_would_rather_not() -> None:
    fleet = ready(3)
    put(fleet.state, app(DB, {"tier": "db"}), "n3")
    put(fleet.state, app(BATCH, {"noisy": "yes"}), "n1")

    def chosen(**placement: object) -> list[str]:
        asked = app(WEB, **placement)
        return [choice.node for choice in place(asked, 1, surveyed(fleet).ground(WEB, spec=asked)).choices]

    assert chosen(beside=[wish("tier=db")]) == ["n3"]
    assert chosen(beside=[wish("noisy=yes", -50), wish(DB, -20)]) == ["n2"]
    assert chosen(beside=[wish("tier=db", -1)], constraints=[{"attribute": "node.name", "value": "n3"}]) == ["n3"], "it is but a wish"
    assert chosen(beside=[wish("tier=nothing"), wish("/o/w/e/none")]) == chosen()


def test_what_goes_or_has_ended_is_beside_nobody() -> None:
    state, asked = State(), app(WEB, beside=[wish(DB)])
    for fields, expected in (({}, {"n1": 50}), ({"stop": True}, {}), ({"ended": True}, {})):
        put(state, app(DB), "n1", **fields)
        assert nodes_beside(state, WEB, asked) == expected


def test_wishes_on_a_node_are_added_up_and_its_own_instances_are_no_others() -> None:
    state = State()
    asked = app(WEB, {"tier": "x"}, beside=[wish("tier=x", 10), wish(DB, 5), wish(CACHE, -5)])
    put(state, asked, "n1", "n2")
    put(state, app(DB, {"tier": "x"}), "n2", "n2", "n3")
    put(state, app(CACHE), "n3")
    assert nodes_beside(state, WEB, asked) == {"n2": 15, "n3": 10}


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_label_keeps_apart_whoever_came_first_and_whoever_says_so(is_ours: bool) -> None:
    fleet = ready(2)
    ours = app(WEB, {"tier": "web"}, apart_from=["noisy=yes"] if is_ours else [])
    put(fleet.state, app(BATCH, {"noisy": "yes"}, apart_from=[] if is_ours else ["tier=web"]), "n1")
    placing = place(ours, 2, surveyed(fleet).ground(WEB, spec=ours))
    assert {choice.node for choice in placing.choices} == {"n2"}
    put(fleet.state, fleet.state.version(BATCH, 1).spec, "n1", "n2")
    placing = place(ours, 1, surveyed(fleet).ground(WEB, spec=ours))
    assert [(item.obstacle.word, item.obstacle.subject, item.nodes) for item in placing.refusals] == [("apart-from", BATCH, 2)]


def test_the_labels_of_the_wanted_version_count() -> None:
    state = State()
    put(state, app(BATCH, {"noisy": "yes"}), "n1")
    asked = app(WEB, apart_from=["noisy=yes"])
    assert rivals(state, WEB, asked) == {BATCH}
    put(state, app(BATCH, {"noisy": "no"}), "n1")
    assert rivals(state, WEB, asked) == set()


class Dice(Random):
    """Draws apps with labels, and what they say of each other."""

    def labels(self) -> dict[str, str]:
        return {name: self.choice("ab") for name in "xy" if self.random() < 0.6}

    def names(self, most: int) -> list[str]:
        known = ["x=a", "x=b", "y=a", "x=a,y=b", DB, CACHE, "/o/w/e/none"]
        return self.sample(known, self.randint(0, most))

    def app(self, path: str) -> AppSpec:
        others = [name for name in self.names(2) if name != path]
        wishes = [wish(name, self.randint(-100, 100)) for name in self.names(3) if name != path]
        return app(path, self.labels(), apart_from=others, beside=wishes)


def is_meant(text: str, other: AppSpec) -> bool:
    if text.startswith("/"):
        return text == other.path
    return set(text.split(",")) <= {f"{name}={value}" for name, value in other.labels.items()}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_who_is_where_is_as_the_definition_says(seed: int) -> None:
    dice, state = Dice(seed), State()
    apps = {path: dice.app(path) for path in (WEB, DB, CACHE, BATCH)}
    on = {path: dice.choices(["n1", "n2", "n3", "n4"], k=dice.randint(0, 3)) for path in apps}
    for path, asked in apps.items():
        put(state, asked, *on[path])
    again = State()
    again.load(tuple(document(kind, key, record) for kind in ("app", "version", "placements") for key, record in state.table(kind).items()))
    assert (again.labelled, again.apart) == (state.labelled, state.apart)
    everybody = {}
    for path, asked in apps.items():
        others = [other for other in apps.values() if other.path != path]
        named = {text for text in asked.placement.apart_from if text.startswith("/")}
        kept = {item.path for item in others if any(is_meant(text, item) for text in asked.placement.apart_from)}
        kept |= {item.path for item in others if any(is_meant(text, asked) for text in item.placement.apart_from)}
        assert rivals(state, path, asked) == kept | named
        assert avoided(state, path, asked)[0].keys() == {name for other in kept for name in on[other]}
        if kept | named:
            everybody[path] = frozenset(kept | named)
        points = dict.fromkeys(("n1", "n2", "n3", "n4"), 0)
        for item in asked.placement.beside:
            for name in points:
                points[name] += item.weight * any(name in on[other.path] for other in others if is_meant(item.apps, other))
        assert nodes_beside(state, path, asked) == {name: weight for name, weight in points.items() if weight}
    assert {path: others for path, others in all_rivals(state).items() if path in apps} == everybody


def test_what_is_known_of_labels_goes_with_them() -> None:
    state = State()
    put(state, app(DB, {"tier": "db", "team": "shop"}), "n1")
    put(state, app(DB, {"tier": "db"}), "n1")
    assert (state.labelled.meant("tier=db"), state.labelled.meant("team=shop,tier=db")) == ({DB}, set())
    draft = Draft(state)
    draft.delete("app", DB)
    draft.delete("placements", DB)
    state.apply(draft)
    assert state.labelled == Labelled()


def moves(state: State, *paths: str) -> list[tuple[str, str, str]]:
    nodes = [node(name) for name in ("n1", "n2", "n3")]
    subjects = [subject_of(state, state.apps[path], frozenset(), stop_first=False) for path in paths]
    others = elsewhere(state, subjects)
    search, columns = (Search(subjects, nodes, 10, 0.1, others, large=large) for large in (100, 0))
    for each in (search, columns):
        assert not any(each.run())
    assert search.moves == columns.moves, "however the nodes are looked at"
    assert all("beside" in move.why for move in search.moves)
    return [(move.app, move.source, move.target) for move in search.moves]


def test_a_rebalance_knows_what_stays_what_stops_and_where_room_is_kept() -> None:
    state = State()
    put(state, app(WEB, apart_from=[DB], beside=[wish("tier=cache")]), "n1")
    put(state, app(DB), "n1", "n2", "n3")
    put(state, app(CACHE, {"tier": "cache"}), "n2", "n3")
    draft = Draft(state)
    there = state.placed(DB).instances
    draft.put_placements(Placements(DB, (replace(there[0], stop=True), replace(there[1], ended=True), there[2])))
    draft.put_app(replace(state.apps[DB], claims=("n4",), held=("n5",)))
    there = state.placed(CACHE).instances
    draft.put_placements(Placements(CACHE, (replace(there[0], stop=True), there[1])))
    state.apply(draft)
    web, db = (subject_of(state, state.apps[path], all_rivals(state).get(path, frozenset()), stop_first=False) for path in (WEB, DB))
    assert elsewhere(state, [web]) == {
        DB: Elsewhere(frozenset({"n3"}), frozenset({"n1", "n3", "n4", "n5"})),
        CACHE: Elsewhere(frozenset({"n3"}), frozenset({"n2", "n3"})),
    }
    assert elsewhere(state, [web, db])[DB] == Elsewhere(counts=frozenset({"n4", "n5"})), "instances of what is at rest are looked at"


def test_a_rebalance_moves_an_app_to_where_it_would_rather_stand() -> None:
    state = State()
    put(state, app(WEB, beside=[wish("tier=db")]), "n1")
    put(state, app(DB, {"tier": "db"}), "n3")
    assert moves(state, WEB, DB) == [(WEB, "n1", "n3")]
    assert moves(state, WEB) == [(WEB, "n1", "n3")], "also if the other app is not at rest"
    put(state, app(WEB, beside=[wish("tier=db")]), "n3")
    assert moves(state, WEB, DB) == []


def test_what_another_app_would_lose_by_a_move_counts_as_well() -> None:
    """The database would rather be on n3, and the web server beside it: it takes the one along, or both stay."""
    liked = [{"attribute": "node.name", "value": "n3", "weight": 40}]
    alone = Subject(DB, app(DB, affinities=liked), (Placed(1, 1, "n1", ()),))
    nodes = [node(name, attributes={"node.name": name}) for name in ("n1", "n3")]
    assert [(move.app, move.target) for move in plan([alone], nodes)] == [(DB, "n3")]
    fixed = app(WEB, beside=[wish(DB, 90)], constraints=[{"attribute": "node.name", "value": "n1"}])
    held = Subject(WEB, fixed, (Placed(1, 1, "n1", ()),), wishes=((frozenset({DB}), 90),))
    assert plan([alone, held], nodes) == ()
