"""What the fence keeps on disk: it comes back as it was, nobody else reads it, nonsense does not stop the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.agent.fence.lease import Held, Holding, holding
from gestalt.agent.fence.membership import Saved, Session
from gestalt.agent.fence.saved import HeldFile, SavedFile
from gestalt.errors import GestaltError

FULL = Saved(incarnation=7, boot="b", session=Session(2**62 + 1, b"\x00\xffpassword"), earlier=(3, 2), agent_gone=12.5)


@pytest.mark.parametrize("saved", [Saved(), FULL, Saved(incarnation=1, boot="b")], ids=["nothing", "everything", "some"])
def test_it_comes_back_as_it_was(saved: Saved, tmp_path: Path) -> None:
    file = SavedFile(tmp_path)
    file.save(saved)
    assert SavedFile(tmp_path).load() == saved


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    file = SavedFile(folder)
    file.lock()
    file.save(FULL)
    assert (folder / "state.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", ["", "{", "[]", '{"incarnation": "x"}', '{"incarnation": 1, "boot": "b", "earlier": [], "session": 3}'])
def test_nonsense_counts_as_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    assert SavedFile(tmp_path).load() == Saved()


def test_a_folder_has_one_user(tmp_path: Path) -> None:
    first, second = SavedFile(tmp_path), SavedFile(tmp_path)
    first.lock()
    with pytest.raises(GestaltError, match="another gestalt-fence"):
        second.lock()
    first.unlock()
    second.lock()


def test_who_is_kept_out_keeps_nothing_open(tmp_path: Path) -> None:
    """It may ask for long."""
    first, second = SavedFile(tmp_path), SavedFile(tmp_path)
    first.lock()
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(GestaltError):
        second.lock()
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert not second.locked


def test_the_password_is_not_shown() -> None:
    assert "password" not in repr(FULL)


@pytest.mark.parametrize(
    "held", [Held(), Held("b", 3, 12.5), holding(Held("b", 3, 12.5), "volume", Holding(("/a", "/b"), "g", 3, 1, 2, True))]
)
def test_what_is_held_comes_back(held: Held, tmp_path: Path) -> None:
    HeldFile(tmp_path).save(held)
    assert HeldFile(tmp_path).load() == held


@pytest.mark.parametrize("content", ["", "[]", '{"boot": "b"}', '{"boot": "b", "incarnation": 1, "until": 2, "holdings": [1]}'])
def test_nobody_guesses_what_is_held(content: str, tmp_path: Path) -> None:
    """Nonsense there might be a volume that is still written to."""
    (tmp_path / "held.json").write_text(content)
    with pytest.raises(GestaltError, match=r"held\.json"):
        HeldFile(tmp_path).load()
