"""What the first machine of a cluster says of itself is checked before anything is made, as of those that join."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.cluster.init import InitOptions, found
from gestalt.cluster.layout import ClusterLayout
from gestalt.cluster.settings import NodeChoices
from gestalt.errors import GestaltError, Kind


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        (NodeChoices(labels={"rack": "a" * 257}), "labels.rack: has a value of 257 characters"),
        (NodeChoices(labels={"r" * 64: "a"}), f"labels.{'r' * 64}: has a key of 64 characters"),
        (NodeChoices(roles=("Edge",)), "roles: 'Edge' is not allowed"),
    ],
)
async def test_labels_and_roles_of_the_first_node_are_bounded(tmp_path: Path, choices: NodeChoices, complaint: str) -> None:
    layout = ClusterLayout(tmp_path / "root")
    with pytest.raises(GestaltError) as told:
        await found(layout, InitOptions(("127.0.0.1:1",), "10.0.0.1", "one", node=choices))
    assert (told.value.kind, told.value.message) == (Kind.INVALID, complaint)
    assert not list(tmp_path.iterdir()), "nothing was made"
