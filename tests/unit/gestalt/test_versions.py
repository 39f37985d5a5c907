"""Which versions work together, and what is said when they do not."""

from __future__ import annotations

import pytest

from gestalt.errors import GestaltError, Kind
from gestalt.versions import Version, are_compatible, check_compatible, is_older, parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.1.0", Version(0, 1)), ("1.12", Version(1, 12)), ("1.2.3rc1", Version(1, 2)), ("2.0.0+local.1", Version(2, 0))],
)
def test_versions_are_read(text: str, version: Version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "1", "one.two", "1.x", "-1.2", "1.2 ; 3", "1.2.3\n", "9999999999.1"])
def test_what_is_no_version_is_none(text: str) -> None:
    assert parse_version(text) is None
    assert not are_compatible(text, "1.2.3")
    assert not are_compatible(text, text)
    assert is_older(text, "0.1.0")


@pytest.mark.parametrize(
    ("one", "other", "compatible"),
    [
        ("0.1.0", "0.1.9", True),
        ("0.1.0", "0.2.0", True),
        ("0.1.0", "0.3.0", False),
        ("1.9.0", "1.10.0", True),
        ("1.9.0", "2.0.0", False),
        ("1.0.0", "2.0.0", False),
    ],
)
def test_neighbouring_minor_versions_work_together(one: str, other: str, compatible: bool) -> None:
    assert are_compatible(one, other) is compatible
    assert are_compatible(other, one) is compatible


def test_patches_make_nothing_older() -> None:
    assert not is_older("1.2.1", "1.2.9")
    assert is_older("1.9.9", "1.10.0")
    assert not is_older("1.10.0", "1.9.9")


@pytest.mark.parametrize(
    ("agent", "coordinator", "upgrade"), [("0.1.0", "0.4.0", "node a"), ("0.4.0", "0.1.0", "the coordinator"), ("", "0.4.0", "node a")]
)
def test_the_refusal_says_what_to_upgrade(agent: str, coordinator: str, upgrade: str) -> None:
    with pytest.raises(GestaltError) as told:
        check_compatible("node a", agent, "the coordinator", coordinator)
    assert told.value.kind is Kind.REFUSED
    assert f"upgrade {upgrade}" in told.value.hint
    assert (agent or "unknown") in told.value.message
    assert coordinator in told.value.message
