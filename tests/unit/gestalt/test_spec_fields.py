"""Every field of the description wrong, one at a time: exactly one mistake, and it names that field."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.spec.load import validate_spec
from gestalt.spec.mistakes import show_place
from gestalt.spec.schema import AppSpec
from gestalt.spec.shape import Slot, find, is_section
from gestalt.spec.values import Unit

from .specs import BATCH, FULL, SMALL, Document, Place, changed, places, without

PLACES = places(FULL)
IN_JOB = [place for place in places(BATCH) if place[0] == "job"]


def mistakes(document: Any) -> tuple[Detail, ...]:
    try:
        validate_spec(document)
    except GestaltError as error:
        refusal = error
    else:
        return ()
    assert refusal.kind is Kind.INVALID
    assert refusal.details
    return refusal.details


def the_mistake(document: Any, place: Place) -> Detail:
    """Return the one mistake of a document, which must be at a place or within it."""
    found = mistakes(document)
    assert len(found) == 1, f"expected one mistake at {show_place(place)}, got {found}"
    name = show_place(place)
    assert found[0].field == name or found[0].field.startswith((f"{name}.", f"{name}[")), found[0]
    assert found[0].problem
    return found[0]


def slot_of(place: Place) -> Slot:
    slot = find(AppSpec, place)
    assert slot is not None
    return slot


def wrong_values(slot: Slot) -> list[Any]:
    """Return values that no field of this type takes."""
    if any(isinstance(item, Unit) for item in slot.metadata):
        return ["12 parsecs", "", -1, True, [], {}, float("inf"), 10**20]
    if is_section(slot.kind) or typing.get_origin(slot.kind) is dict:
        return ["text", 7, [1]]
    if typing.get_origin(slot.kind) is tuple:
        return ["text", 7, {"a": 1}, [[1, 2]], [None]]
    if typing.get_origin(slot.kind) is typing.Literal:
        return ["nonsense", " ", 7, [], {}]
    return {str: [["x"], {"x": 1}, "\0"], int: ["x", 1.5, True, [], 2**70, -(2**70)], bool: ["yes", 1, [], 0.0]}[slot.kind]


def test_the_full_description_is_valid_and_sets_every_field() -> None:
    spec = validate_spec(FULL)
    seen = {tuple(step for step in place if not isinstance(step, int)) for place in (*PLACES, *IN_JOB)}

    def expect(section: type, prefix: tuple[str, ...]) -> None:
        for name, field in typing.cast(Any, section).model_fields.items():
            assert (*prefix, name) in seen, f"the full description lacks {'.'.join((*prefix, name))}"
            inner = find(section, (name,))
            inner = inner if inner and is_section(inner.kind) else inner and inner.child(0)
            if inner and is_section(inner.kind):
                expect(inner.kind, (*prefix, name, *{"ulimits": ("nofile",), "parameters": ("DAY",)}.get(name, ())))
            del field

    expect(AppSpec, ())
    assert validate_spec(spec.model_dump(mode="json")) == spec, "a normalised description is not what it normalises to"


@pytest.mark.parametrize("place", PLACES, ids=show_place)
def test_a_wrong_value_is_told_at_its_place(place: Place) -> None:
    for value in wrong_values(slot_of(place)):
        the_mistake(changed(FULL, place, value), place)


@pytest.mark.parametrize("place", IN_JOB, ids=show_place)
def test_a_wrong_value_of_a_job_is_told_at_its_place(place: Place) -> None:
    for value in wrong_values(slot_of(place)):
        the_mistake(changed(BATCH, place, value), place)
    if not is_section(slot_of(place).kind) or place[-1] not in ("job", "schedule"):
        assert the_mistake(changed(BATCH, place, None), place).problem == "has no value"


@pytest.mark.parametrize("place", [place for place in PLACES if place[-1] not in ("http", "tcp", "autoscale")], ids=show_place)
def test_no_value_is_told_at_its_place(place: Place) -> None:
    assert the_mistake(changed(FULL, place, None), place).problem == "has no value"


SECTIONS = [(), *(place for place in PLACES if is_section(slot_of(place).kind))]


@pytest.mark.parametrize("place", SECTIONS, ids=show_place)
def test_an_unknown_field_is_told_with_a_suggestion(place: Place) -> None:
    section: Any = FULL
    for step in place:
        section = section[step]
    for name in section:
        misspelt = f"{name[:-1]}_{name[-1]}"
        detail = the_mistake(changed(FULL, (*place, misspelt), section[name]), (*place, misspelt))
        assert f"did you mean {name!r}?" in detail.problem
        assert name in detail.allowed
    assert "did you mean" not in the_mistake(changed(FULL, (*place, "zzqqxx"), 1), (*place, "zzqqxx")).problem


@pytest.mark.parametrize("place", SECTIONS, ids=show_place)
def test_a_required_field_that_is_missing_or_misspelt_is_told(place: Place) -> None:
    for name, field in typing.cast(Any, slot_of(place).kind).model_fields.items():
        if not field.is_required():
            continue
        assert the_mistake(without(FULL, (*place, name)), (*place, name)).problem == "is missing"
        misspelt = changed(without(FULL, (*place, name)), (*place, f"{name}x"), "whatever")
        assert f"did you mean {name!r}?" in the_mistake(misspelt, (*place, f"{name}x")).problem


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ("replicas", "instances"), ("environment", "env"), ("cmd", "command"), ("entrypoint", "command"), ("healthcheck", "checks"),
        ("memory", "resources.memory"), ("cpus", "resources.cpu"), ("mounts", "volumes"), ("name", "path"),
        ("user", "security.user"), ("dependsOn", "depends_on"), ("Image", "image"),
    ],
)  # fmt: skip
def test_words_of_other_tools_are_understood(foreign: str, ours: str) -> None:
    assert f"did you mean {ours!r}?" in the_mistake({**SMALL, foreign: "x"}, (foreign,)).problem


TRICKS = [
    "/a/b/c/d\n", "\n/a/b/c/d", "/a/b/c/d/", "//a/b/c/d", "/a//c/d", "/a/../c/d", "/a/b/c/..", "/a/b/c/.", "/a/b/c", "/a/b/c/d/e",
    "a/b/c/d", "", "/a/b/c/d;reboot", "/a/b/c/$(reboot)", "/a/b/c/`id`", "/a/b/c/d e", "/a/b/c/d\0", "/A/b/c/d", "/a/b/c/-d", "/a/b/c/d-",
    "/a/b/c/d_",
    "/\u0430/b/c/d", "/a/b/c/\uff44", "/a/b/c/d\u200b", "/a/b/c/d\u2215e", "/a/b/c/\u00b2", "/a/b/c/%2e%2e", "/a/b/c/" + "d" * 41,
    "/" + "a" * 64 + "/b/c/d",
]  # fmt: skip

BAD: list[tuple[Place, list[Any]]] = [
    (("path",), TRICKS),
    (("depends_on", 0), TRICKS),
    (("image",), ["-it", " web", "web ", "web:1 --privileged", "Web:1", "web::1", "web@sha256:12", "https://web", "../web",
        "web:", "x" * 600, "we\nb", "wеb"]),  # noqa: RUF001
    (("command", 0), [""]),
    (("env", "LOG_LEVEL"), ["a\0b", "\ud800", "x" * 40_000]),
    (("workdir",), ["srv", "/srv/", "/srv/../etc", "/srv//x", "/./srv", "/srv\n", "/s\0"]),
    (("instances",), [-1, 100_001]),
    (("resources", "cpu"), ["-1", "1 core", "1e3", 5000]),
    (("resources", "memory"), ["512 parsecs", "-1MiB", 1, "1KiB", "2000TiB", 1.5]),
    (("resources", "pids"), [-1, 2**31]),
    (("ports", 0, "name"), ["Web", "web_1", "1web", "-web", "web-", "", "a" * 16, "web\n", "wéb"]),
    (("ports", 0, "container_port"), [-1, 65536, "80", 80.0]),
    (("ports", 0, "http", "path_prefix"), ["shop", "", "/shop?x", "/a b", "/a//b", "/a\nb", '/a"b', "/a#b", "/a$b", "/é"]),
    (("ports", 0, "http", "hosts", 0), ["-a.example", "a-.example", "a..b", ".example", "example.", "*", "a.*.example", "*.",
        "http://a", "a b", "a:80", "a_b",
                                        "x" * 64 + ".example", "a." * 130 + "a", "", "shop.exаmple", "a\n", "**.example"]),  # noqa: RUF001
    (("ports", 1, "tcp", "port"), [0, -1, 65536]),
    (("volumes", 0, "name"), ["../x", "a/b", "-a", "A", "a b", "x" * 64]),
    (("volumes", 0, "target"), ["", "/", "data", "/a/../b", "/a/", "//a", "/a\nb"]),
    (("volumes", 1, "host_path"), ["etc", "/etc/..", "/etc/../root", "/a//b"]),
    (("checks", 0, "name"), ["A", "a b", "-a", "../a", "a" * 41]),
    (("checks", 0, "path"), ["health", "", "/a b", "/a\r\nX: y", "/é", "/" + "a" * 3000]),
    (("checks", 0, "headers"), [{"X Y": "1"}, {"X:": "1"}, {"": "1"}, {"X": "a\r\nEvil: 1"}, {"X": "\0"},
        {"Connection": "keep"}, {"content-length": "5"}]),
    (("checks", 0, "expect_status"), [[199], [600], ["200"], [100]]),
    (("checks", 0, "expect_body"), ["(", "[a", "a{2,1}", "*", "x" * 501, "(?P<n>a)(?P<n"]),
    (("checks", 1, "service"), ["a b", "1a", "a/b", "-"]),
    (("checks", 0, "interval"), [0, "50ms", "0s", "-1s", "400d"]),
    (("checks", 0, "timeout"), [0, "3s"]),
    (("checks", 0, "failures"), [0, -1, 1001]),
    (("checks", 0, "successes"), [0]),
    (("restart", "crash_loop"), [-1, 1001]),
    (("restart", "window"), [0, "500ms"]),
    (("stop", "signal"), ["SIGNOPE", "9", "SIG_DFL", "", "SIGSIGTERM", "TERM;"]),
    (("stop", "grace"), ["2d", -1]),
    (("security", "user"), ["root;id", "a b", ":1", "1:", "1:2:3", "-root", "$USER", "x" * 40, "röot"]),
    (("security", "capabilities", 0), ["ALL", "CAP_", "NET_BIND", "", "CHOWN SETUID", "CAP_CAP_CHOWN"]),
    (("ulimits",), [{"nofiles": {"soft": 1, "hard": 1}}, {"NOFILE": {"soft": 1, "hard": 1}}]),
    (("ulimits", "nofile", "soft"), [-2, -1, 16385]),
    (("logging", "max_size"), [0, "1KiB"]),
    (("logging", "max_files"), [0]),
    (("placement", "constraints", 0, "attribute"), ["", "a b", "-x", "a;b"]),
    (("placement", "affinities", 0, "weight"), [-101, 101]),
    (("placement", "spread", 0, "targets"), [{"a": 60, "b": 60}, {"a": -1}, {"a": 101}]),
    (("placement", "priority"), [-1, 101]),
    (("update", "max_surge"), ["101%", "-1", "a few", "1.5", "%", 1.5, "٣"]),
    (("pull", "credentials"), ["../secrets", "/etc/passwd", "a b", ".."]),
    (("labels",), [{"gestalt.node": "x"}, {"GESTALT": "x"}, {"a b": "x"}, {"": "x"}, {"a=b": "x"}, {"n" * 129: "x"}]),
    (("env",), [{"1A": "x"}, {"A B": "x"}, {"A=B": "x"}, {"": "x"}, {"É": "x"}, {"GESTALT_NODE": "x"}, {"PORT_WEB": "1"}]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "values"), BAD, ids=[show_place(place) for place, _ in BAD])
def test_what_each_field_refuses(place: Place, values: list[Any]) -> None:
    for value in values:
        detail = the_mistake(changed(FULL, place, value), place)
        assert detail.allowed, f"{value!r} at {show_place(place)}: nothing says what is allowed"


GOOD: list[tuple[Place, list[Any]]] = [
    (("path",), ["/a/b/c/d", "/a-b/0/1/x9", "/" + "a" * 63 + "/b/c/" + "d" * 40]),
    (("image",), ["web", "web:1", "a.b/c", "localhost/web", "localhost:5000/a/b_c/d-e:V1.2-x_y", "[::1]:5000/web",
        "web@sha256:" + "a" * 64, "a/b:1@sha256:" + "0" * 64]),
    (("env",), [{"_": ""}, {"Path_2": "ü\n\t$(x)"}, {"PORT": "1"}]),
    (("workdir",), ["", "/", "/a b/ü"]),
    (("resources", "memory"), [0, "6MiB", 6 * 2**20, "0.5G", "1 GiB"]),
    (("resources", "cpu"), [0, 2, 0.5, "1", "1.5", "1500m"]),
    (("ports", 0, "http", "hosts"), [[], ["localhost"], ["a.b-c.example", "*.example"], ["xn--bcher-kva.example"]]),
    (("ports", 0, "http", "path_prefix"), ["/", "/a", "/a/", "/a/b.c~d_e-f", "/%C3%A9"]),
    (("checks", 0, "expect_body"), ["", r"^\d+$", "ok|fine", r"\bready\b"]),
    (("stop", "signal"), ["TERM", "sigint", "SIGKILL", "SIGRTMIN"]),
    (("security", "user"), ["", "0", "app", "app:staff", "1000:1000", "_x-y", 1000]),
    (("security", "capabilities"), [[], ["cap_chown"], ["NET_BIND_SERVICE", "CAP_SYSLOG"]]),
    (("update", "max_surge"), [0, 1, "2", "25%", "100%"]),
    (("ulimits", "nofile"), [{"soft": -1, "hard": -1}, {"soft": 1, "hard": -1}, {"soft": 5, "hard": 5}]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "values"), GOOD, ids=[show_place(place) for place, _ in GOOD])
def test_what_each_field_takes(place: Place, values: list[Any]) -> None:
    for value in values:
        assert mistakes(changed(FULL, place, value)) == ()


def test_all_mistakes_are_told_at_once() -> None:
    document: Document = {
        "path": "/a",
        "instances": -1,
        "ports": [{"name": "web"}, {"name": "web"}, {"nme": "x"}],
        "checks": [{"kind": "http", "interval": "1s", "timeout": "2s", "retries": 3}],
        "stop": {"signal": "NOPE", "grace": "soon"},
        "update": {"max_surge": 0},
        "runtime": "docker",
    }
    expected = {
        "path", "instances", "ports[2].nme", "checks[0].timeout", "checks[0].retries", "stop.signal", "stop.grace",
        "update.max_surge", "image",
    }  # fmt: skip
    assert {detail.field for detail in mistakes(document)} == expected


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=15,
)


@given(_json)
def test_garbage_is_refused_and_never_raises_anything_else(document: Any) -> None:
    assert mistakes(document)


@given(st.sampled_from(PLACES), _json)
def test_garbage_in_one_place_never_raises_anything_else(place: Place, value: Any) -> None:
    mistakes(changed(FULL, place, value))


_lists = st.lists(st.lists(st.integers(), max_size=2), min_size=1, max_size=3)


@given(st.sampled_from([place for place in PLACES if typing.get_origin(slot_of(place).kind) is None]), _lists)
def test_a_value_of_another_shape_is_told_at_its_place(place: Place, value: Any) -> None:
    the_mistake(changed(FULL, place, value), place)


@pytest.mark.parametrize("document", [None, 7, "text", [], [SMALL], {1: 2}, {"path": {"a": {}}}, object()])
def test_what_is_no_section_at_all(document: Any) -> None:
    assert mistakes(document)


def test_a_huge_description_is_refused() -> None:
    detail = mistakes({**SMALL, "env": {f"X{number}": "x" * 30_000 for number in range(20)}})
    assert "at most" in detail[0].allowed
