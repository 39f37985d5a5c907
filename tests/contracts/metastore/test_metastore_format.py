"""Contract: a store keeps its format until it is raised, and a version that does not understand it keeps away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gestalt.coordinator.store import MetaStore, formats
from gestalt.coordinator.store.base import Put, StaleEpoch, WrongFormat
from gestalt.coordinator.store.formats import Formats


@pytest.fixture
def two_formats(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Be a version that understands formats up to a number."""
    return lambda newest: monkeypatch.setattr(formats, "SUPPORTED", Formats(1, newest))


async def test_a_format_is_raised_once_and_for_all(make: Callable[..., MetaStore], two_formats: Callable[[int], None]) -> None:
    store = make()
    await store.open()
    epoch = await store.take_office()
    two_formats(2)
    assert (await store.load()).format == 1
    await store.commit([Put("app", "a", b"1")], epoch)
    assert await store.raise_format(2, epoch)
    assert not await store.raise_format(2, epoch), "the same again changes nothing"
    assert not await store.raise_format(1, epoch), "there is no way back"
    snapshot = await store.load()
    assert (snapshot.format, [item.value for item in snapshot.documents]) == (2, [b"1"])
    await store.commit([Put("app", "a", b"2")], epoch)
    await store.close()

    again = make()
    await again.open()
    assert (await again.load()).format == 2
    await again.close()

    two_formats(1)
    older = make()
    with pytest.raises(WrongFormat, match="has format 2") as told:
        await older.open()
    assert "upgrade this coordinator" in told.value.hint
    await older.close()


async def test_who_is_deposed_raises_no_format(make: Callable[..., MetaStore], two_formats: Callable[[int], None]) -> None:
    store = make()
    await store.open()
    epoch = await store.take_office()
    two_formats(2)
    await store.take_office()
    with pytest.raises(StaleEpoch):
        await store.raise_format(2, epoch)
    assert (await store.load()).format == 1
    await store.close()
