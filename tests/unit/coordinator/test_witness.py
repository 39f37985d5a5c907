"""Which states a coordinator that has seen another one may lead from."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.coordinator.witness import FILE, Found, Mark, Witness, check_found
from gestalt.errors import GestaltError, Kind

SEEN = Mark("h1", 7, 120)


@pytest.mark.parametrize("found", [
    Found(SEEN), Found(Mark("h1", 7, 121)), Found(Mark("h1", 8, 120)), Found(Mark("h2", 8, 1), restored=True),
])  # fmt: skip
def test_the_same_state_a_later_one_and_a_restored_one_are_led_from(found: Found) -> None:
    check_found(SEEN, found)


@pytest.mark.parametrize(("found", "words"), [
    (None, "wiped"),
    (Found(Mark("h1", 6, 130)), "older state"),
    (Found(Mark("h1", 7, 119)), "older state"),
    (Found(Mark("h2", 9, 130)), "another state"),
    (Found(Mark("h2", 7, 130), restored=True), "another state"),
])  # fmt: skip
def test_less_than_was_seen_is_refused_with_the_way_out(found: Found | None, words: str) -> None:
    with pytest.raises(GestaltError, match=words) as refusal:
        check_found(SEEN, found)
    assert refusal.value.kind is Kind.REFUSED
    assert "cluster import" in refusal.value.hint
    assert "recover --confirm" in refusal.value.hint


def test_who_has_seen_nothing_refuses_nothing() -> None:
    check_found(None, None)
    check_found(None, Found(SEEN))
    assert Witness(None).seen is None


def test_a_damaged_memory_is_not_forgotten_in_silence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(GestaltError, match="cannot be read"):
        Witness(tmp_path)
