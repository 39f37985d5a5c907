"""Descriptions as text: YAML and JSON, lines and columns, and text that is no description at all."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gestalt.ctl.describing import read_specs
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.spec.load import load_specs, validate_spec

from .specs import FULL, SMALL, Document, documents


def details(text: str) -> tuple[Detail, ...]:
    try:
        load_specs(text, "f.yaml")
    except GestaltError as error:
        refusal = error
    else:
        return ()
    assert refusal.kind is Kind.INVALID
    assert refusal.details
    assert "f.yaml" in refusal.message
    return refusal.details


def the_detail(text: str) -> Detail:
    found = details(text)
    assert len(found) == 1, found
    return found[0]


FILE = """\
# a comment first
path: /a/b/c/d
image: web:1
command: run --all
ports:
  - name: web
    container_port: 70000
  -
    nme: admin
env:
  A: 0755
  A: 1
  GESTALT_X: 1
checks:
  - kind: http
    headers: {X: yes,
              Connection: close}
    timeout: 9
cheks: []
---
---
path: /a/b/c/d
image: web:2
---
path: /a/b/c/e
image: {a: b}
"""


def test_every_mistake_of_a_file_has_its_line() -> None:
    found = {detail.field: detail.problem for detail in details(FILE)}
    assert found.keys() == {
        "f.yaml:4: command", "f.yaml:7: ports[0].container_port", "f.yaml:9: ports[1].nme", "f.yaml:11: env.A", "f.yaml:13: env.GESTALT_X",
        "f.yaml:17: checks[0].headers.Connection", "f.yaml:18: checks[0].timeout", "f.yaml:19: cheks", "f.yaml:26: image",
    }  # fmt: skip
    assert found["f.yaml:11: env.A"] == "stands twice: in line 11 and in line 12"
    assert "did you mean 'name'" in found["f.yaml:9: ports[1].nme"]
    assert "list of arguments" in found["f.yaml:4: command"]


def test_an_app_twice_in_a_file() -> None:
    detail = the_detail("path: /a/b/c/d\nimage: x:1\n---\nimage: x:1\npath: /a/b/c/d\n")
    assert detail == Detail("f.yaml:5: path", "is /a/b/c/d, as in line 1", "one document an app")


def test_something_missing_is_told_at_its_section() -> None:
    assert the_detail("path: /a/b/c/d\nimage: x\nports:\n  - name: a\n  - container_port: 1\n").field == "f.yaml:5: ports[1].name"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("path: /a/b/c/d\nimage: [x\n", "f.yaml:3:1"),
        ("path: /a/b/c/d\n  image: x\n", "f.yaml:2:8"),
        ("a: b\n\t- c\n", "f.yaml:2:1"),
        ("a: 'open\n", "f.yaml:2:1"),
        ("a: *nowhere\n", "f.yaml:1:4"),
        ("a: \x00", "f.yaml:1"),
        ("a: 1\nb: \x07", "f.yaml:2"),
        ("\ud800", "f.yaml"),
        ("[" * 30_000, "f.yaml:1:51"),
        ("- " * 30_000, "f.yaml:1:101"),
        ("{a: " * 30_000, "f.yaml:1:201"),
        ('{"path": "/a/b/c/d",,}', "f.yaml:1:21"),
        ('{"path": "\\ud800"}', "f.yaml:1:13"),
    ],
)
def test_malformed_text_is_told_with_line_and_column(text: str, field: str) -> None:
    detail = the_detail(text)
    assert detail.field == field
    assert detail.problem.startswith("this is not YAML: ")


def test_documents_before_the_malformed_one_are_checked_too() -> None:
    assert [detail.field for detail in details("path: x\nimage: x\n---\npath: [\n")] == ["f.yaml:1: path", "f.yaml:5:1"]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "---\n---\n...\n", "null\n", "~"])
def test_a_file_without_a_description(text: str) -> None:
    assert the_detail(text) == Detail("f.yaml", "holds no description", "one document an app")


@pytest.mark.parametrize("text", ["text", "- path: /a/b/c/d\n", "[]", "7"])
def test_a_document_that_is_no_mapping(text: str) -> None:
    assert "a section with the fields path" in the_detail(text).allowed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path: /a/b/c/d\nimage: !!python/name:os.system x\n", "has the tag"),
        ("path: /a/b/c/d\nimage: x\nenv: {A: !!binary aGk=}\n", "has the tag"),
        ("path: /a/b/c/d\nimage: x\nenv: {? [a] : b}\n", "has a key that is a list"),
        ("path: /a/b/c/d\nimage: x\nenv: {<<: 7}\n", "has a << that brings in no mapping"),
        ("&a\npath: /a/b/c/d\nimage: x\nenv: {A: *a}\n", "more than 100000 values"),
        ("&a [*a]", "more than 100000 values"),
    ],
)
def test_yaml_that_we_do_not_want(text: str, problem: str) -> None:
    assert any(problem in detail.problem for detail in details(text))


def test_aliases_that_multiply_are_ended_soon() -> None:
    text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    begun = time.monotonic()
    assert "more than" in the_detail(text).problem
    assert time.monotonic() - begun < 5


def test_a_huge_file_is_refused_unread() -> None:
    assert "characters" in the_detail("#" * (5 * 1024**2)).problem


def test_plain_words_count_as_written_where_text_is_expected() -> None:
    text = """
path: /a/b/c/d
image: web:1
command: [/bin/web, 0755, 1.10, yes, 12:30, 2024-01-01, 1e3, on, =]
env: {OCTAL: 0755, VERSION: 1.10, YES: yes, TRUE: True, TIME: 12:30:00, DAY: 2024-01-01, BIG: 123456789012345678901234567890, HEX: 0xFF}
labels: {x: no}
security: {user: 1000:50}
update: {max_surge: 2}
"""
    (spec,) = load_specs(text, "f.yaml")
    assert spec.command == ("/bin/web", "0755", "1.10", "yes", "12:30", "2024-01-01", "1e3", "on", "=")
    assert spec.env == {
        "OCTAL": "0755", "VERSION": "1.10", "YES": "yes", "TRUE": "True", "TIME": "12:30:00", "DAY": "2024-01-01",
        "BIG": "123456789012345678901234567890", "HEX": "0xFF",
    }  # fmt: skip
    assert (spec.labels, spec.security.user, spec.update.max_surge) == ({"x": "no"}, "1000:50", "2")


@pytest.mark.parametrize(
    ("line", "field"),
    [("instances: 1_000", "instances"), ("instances: 1:30", "instances"), ("instances: '3'", "instances"),
     ("resources: {pids: 1.0}", "resources.pids"), ("security: {read_only_root: yes}", "security.read_only_root"),
     ("stop: {grace: 1:30}", "stop.grace")],
)  # fmt: skip
def test_only_the_words_of_yaml_1_2_are_numbers_and_truth_values(line: str, field: str) -> None:
    assert the_detail(f"path: /a/b/c/d\nimage: x\n{line}\n").field == f"f.yaml:3: {field}"


def test_numbers_may_be_written_as_yaml_1_2_has_them() -> None:
    (spec,) = load_specs("path: /a/b/c/d\nimage: x\ninstances: 0x10\nresources: {cpu: .5, memory: 0o40000000, pids: 010}\n", "f.yaml")
    assert (spec.instances, spec.resources.cpu, spec.resources.memory, spec.resources.pids) == (16, 0.5, 8 * 2**20, 10)


def test_anchors_and_merges() -> None:
    text = """
path: /a/b/c/d
image: web:1
env: &env {A: "1", B: "2"}
ports: [{name: web}]
checks:
  - &check {kind: http, interval: 1s}
  - {<<: *check, path: /x, name: other}
labels: {<<: [{x: "1"}, {x: "2", y: "2"}], y: "3"}
"""
    (spec,) = load_specs(text, "f.yaml")
    assert (spec.checks[1].interval, spec.checks[1].path, spec.labels) == (1.0, "/x", {"x": "1", "y": "3"})


def test_no_value_is_a_mistake_and_quotes_are_the_way_out() -> None:
    assert the_detail("path: /a/b/c/d\nimage: x\nenv:\n  A:\n") == Detail("f.yaml:4: env.A", "has no value", "text")
    assert load_specs('path: /a/b/c/d\nimage: x\nenv:\n  A: ""\n', "f.yaml")[0].env == {"A": ""}


def test_json_with_all_that_json_has() -> None:
    document = {**SMALL, "env": {"A": '\U0001f600 "\\ \\ud83d\\ude00 \u00e9 \x7f\t', "B": "/"}}
    (spec,) = load_specs(json.dumps(document, indent="\t").replace("/", "\\/"), "f.json")
    assert spec == validate_spec(document)


# -- properties ------------------------------------------------------------------------------------------------------


@given(st.lists(documents(), min_size=1, max_size=3, unique_by=lambda document: document["path"]))
def test_random_descriptions_survive_yaml(drawn: list[Document]) -> None:
    specs = tuple(validate_spec(document) for document in drawn)
    assert load_specs(yaml.safe_dump_all(drawn), "f.yaml") == specs
    assert load_specs(yaml.safe_dump_all([spec.model_dump(mode="json") for spec in specs]), "f.yaml") == specs


@given(documents())
def test_random_descriptions_survive_json(document: Document) -> None:
    spec = validate_spec(document)
    assert load_specs(json.dumps(document), "f.json") == (spec,)
    assert load_specs(json.dumps(document, ensure_ascii=False), "f.json") == (spec,)
    assert load_specs(spec.model_dump_json(), "f.json") == (spec,)


@given(st.one_of(st.text(), st.text(alphabet="{}[],:-&*!|>'\"%@`#?<= \n\tab01.~", max_size=60)))
def test_random_text_is_refused_and_never_raises_anything_else(text: str) -> None:
    assert details(text)


TEXT = yaml.safe_dump(FULL)


@given(
    st.lists(
        st.tuples(st.integers(0, len(TEXT) - 1), st.integers(0, 12), st.text(alphabet="{}[],:-&*!|'\"#? \nab01", max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_a_mangled_file_never_raises_anything_else(edits: list[tuple[int, int, str]]) -> None:
    text = TEXT
    for start, length, new in edits:
        text = text[:start] + new + text[start + length :]
    details(text)


def test_descriptions_that_need_each_other_are_refused_with_the_way() -> None:
    text = """
path: /a/b/c/web
image: web:1
depends_on: [/a/b/c/cache, /a/b/c/db]
---
path: /a/b/c/cache
image: cache:1
---
path: /a/b/c/db
image: db:1
depends_on:
  - /a/b/c/web
"""
    with pytest.raises(GestaltError) as refusal:
        load_specs(text, "f.yaml")
    (detail,) = refusal.value.details
    assert (detail.field, detail.problem) == ("f.yaml:4: depends_on[1]", "makes a cycle: /a/b/c/web -> /a/b/c/db -> /a/b/c/web")


def test_descriptions_of_several_files_that_need_each_other_are_refused(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.yaml" for name in ("web", "db")}
    for (name, file), other in zip(files.items(), ("db", "web"), strict=True):
        file.write_text(f"path: /a/b/c/{name}\nimage: x:1\ndepends_on: [/a/b/c/{other}]\n")
    with pytest.raises(GestaltError, match=r"depends_on.0. makes a cycle: /a/b/c/web -> /a/b/c/db -> /a/b/c/web"):
        read_specs([str(file) for file in files.values()])
