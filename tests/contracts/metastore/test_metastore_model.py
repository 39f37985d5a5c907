"""A long random life of a store beside a dictionary that says what must be in it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from gestalt.coordinator.store import Change, Conflict, Delete, MetaStore, Put, StaleEpoch

Contents = dict[tuple[str, str], tuple[bytes, int]]

_STEPS = 1000


class Model:
    """The contract, as a dictionary."""

    def __init__(self) -> None:
        self.contents: Contents = {}
        self.number = 0
        self.epoch = 0

    def commit(self, changes: list[Change], epoch: int) -> type[Exception] | None:
        """Do what the store should do; return the kind of refusal that it should give."""
        if epoch != self.epoch or not epoch:
            return StaleEpoch
        for change in changes:
            _, found = self.contents.get((change.kind, change.key), (b"", 0))
            if change.expected not in (None, found):
                return Conflict
        self.number += 1
        for change in changes:
            if isinstance(change, Put):
                self.contents[change.kind, change.key] = (change.value, self.number)
            else:
                self.contents.pop((change.kind, change.key), None)
        return None

    def random_change(self, seeded: random.Random) -> Change:
        name = (seeded.choice("ab"), str(seeded.randrange(6)))
        found = self.contents.get(name, (b"", 0))[1]
        expected = seeded.choice([None, found, found, found, 0, self.number])
        value = seeded.randbytes(seeded.choice([0, 10, 1000, 100_000]))
        return Put(*name, value, expected) if seeded.random() < 0.7 else Delete(*name, expected)


async def step(store: MetaStore, model: Model, seeded: random.Random) -> None:
    action = seeded.random()
    if action < 0.03:
        model.epoch += 1
        assert await store.take_office() == model.epoch
    elif action < 0.06:
        await store.close()
        await store.open()
    else:
        changes = [model.random_change(seeded) for _ in range(seeded.randrange(5))]
        epoch = model.epoch if seeded.random() < 0.95 else seeded.randrange(model.epoch + 2)
        refusal = model.commit(changes, epoch)
        outcome: type[Exception] | int
        try:
            outcome = (await store.commit(changes, epoch)).number
        except (StaleEpoch, Conflict) as error:
            outcome = type(error)
        assert outcome == (refusal or model.number), f"{changes} under {epoch}"


@pytest.mark.soak
async def test_random_life_matches_the_model(make: Callable[..., MetaStore], seeded: random.Random, soak_seconds: float) -> None:
    end = time.monotonic() + soak_seconds / 3
    lives = 0
    while lives == 0 or time.monotonic() < end:
        store, model = make(f"life-{lives}"), Model()
        lives += 1
        await store.open()
        for _ in range(_STEPS):
            await step(store, model, seeded)
            snapshot = await store.load()
            found = {(document.kind, document.key): (document.value, document.revision) for document in snapshot.documents}
            assert found == model.contents
            assert (snapshot.commit, snapshot.epoch) == (model.number, model.epoch)
        await store.close()
