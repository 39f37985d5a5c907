"""What is derived from the schema is up to date, and says the same as the schema itself."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from gestalt.spec.export import BEGIN, END, REFERENCE_FILE, SCHEMA_FILE, reference_text, schema_text
from gestalt.spec.load import load_specs, unhonoured, warnings

from .specs import BATCH, FULL, SMALL, Document, changed, documents

SCHEMA: Any = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_file_is_up_to_date() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run python -m gestalt.spec.export"


def test_the_reference_is_up_to_date() -> None:
    text = REFERENCE_FILE.read_text(encoding="utf-8")
    assert BEGIN in text
    assert END in text
    assert text == reference_text(text), "run python -m gestalt.spec.export"


def test_the_schema_is_valid_and_describes_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for section in (SCHEMA, *SCHEMA["$defs"].values()):
        assert section["additionalProperties"] is False
        for name, described in section["properties"].items():
            assert described.get("description"), f"{section['title']}.{name} has no description"


def test_examples_of_the_reference_are_valid_and_raise_no_doubt() -> None:
    examples = re.findall(r"```yaml\n(path:.*?)```", REFERENCE_FILE.read_text(encoding="utf-8"), re.DOTALL)
    specs = load_specs("---\n".join(examples), "docs/app-reference.md")
    assert len(specs) >= 2
    for spec in specs:
        assert (unhonoured(spec), warnings(spec)) == ((), ())


def test_the_json_schema_takes_the_full_description() -> None:
    VALIDATOR.validate(FULL)
    VALIDATOR.validate(BATCH)
    VALIDATOR.validate(SMALL)


@given(documents())
def test_the_json_schema_takes_what_we_take(document: Document) -> None:
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("path",), "/A/b"), (("path",), "/a/b/c/d/"), (("image",), "-x"), (("instances",), -1), (("instances",), "3"), (("nonsense",), 1),
        (("resources", "memory"), "12 parsecs"), (("resources", "cpu"), "x"), (("stop", "grace"), "soon"), (("ports", 0, "name"), "Web"),
        (("ports", 0, "http", "hosts"), ["a..b"]), (("checks", 0, "kind"), "icmp"), (("checks", 0, "interval"), "1 s"),
        (("security", "user"), "a b"), (("update", "max_surge"), "101%"), (("command",), "run me"), (("env",), {"A B": "x"}),
        (("placement", "apart_from"), ["web"]), (("placement", "apart_from"), ["tier="]), (("placement", "beside"), [{"apps": "/a/b"}]),
        (("ulimits",), {"nofiles": {"soft": 1, "hard": 1}}), (("security", "read_only_root"), "yes"),
    ],
)  # fmt: skip
def test_the_json_schema_refuses_what_we_refuse(place: tuple[str | int, ...], value: Any) -> None:
    assert not VALIDATOR.is_valid(changed(FULL, place, value))
