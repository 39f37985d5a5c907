"""Files that are another user's: given with the write, given again when they are not, and never by way of a link."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

import pytest

from gestalt import shell
from gestalt.appliance.init import InitOptions, initialise
from gestalt.appliance.layout import Layout
from gestalt.appliance.supervisor import as_root
from gestalt.cluster.secrets import ensure_secret
from gestalt.files import WRITER, Owner, hand_over, write_atomic
from gestalt.identity import Identity, Role
from gestalt.owner import become, owner_of_unit
from gestalt.pki import Authority, ensure_key

NOBODY = pwd.getpwnam("nobody")
OTHER = Owner(NOBODY.pw_uid, NOBODY.pw_gid)
UNIT = (Path(__file__).resolve().parents[3] / "systemd/gestalt-coordinator.service").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def owner_of(path: Path) -> tuple[int, int, int]:
    there = path.lstat()
    return there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)


def test_a_file_is_its_owners_from_the_write_on(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", "secret", mode=0o600, owner=OTHER)
    assert owner_of(tmp_path / "key") == (OTHER.user, OTHER.group, 0o600)
    write_atomic(tmp_path / "key", "secret", mode=0o600)
    assert owner_of(tmp_path / "key") == (0, 0, 0o600)


def test_what_is_there_is_handed_over_but_not_through_names_that_lead_elsewhere(tmp_path: Path) -> None:
    for name in ("plain", "behind", "twice"):
        write_atomic(tmp_path / name, "text", mode=0o600)
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    (tmp_path / "second").hardlink_to(tmp_path / "twice")
    for name in ("plain", "plain", "link", "second", "nothing"):
        hand_over(tmp_path / name, OTHER)
    assert owner_of(tmp_path / "plain") == (OTHER.user, OTHER.group, 0o600)
    assert owner_of(tmp_path / "behind") == owner_of(tmp_path / "twice") == (0, 0, 0o600)
    hand_over(tmp_path / "plain", WRITER)
    assert owner_of(tmp_path / "plain") == (OTHER.user, OTHER.group, 0o600)


def test_the_owner_is_whom_the_unit_that_counts_names(tmp_path: Path) -> None:
    site, packaged = tmp_path / "site", tmp_path / "packaged"
    for folder in (site, packaged):
        folder.mkdir()
    folders = (site, packaged)
    assert owner_of_unit("gestalt-coordinator", folders) == WRITER
    unit = packaged / "gestalt-coordinator.service"
    unit.write_text(UNIT.replace("User=gestalt", "User=nobody"), encoding="utf-8")
    assert owner_of_unit("gestalt-coordinator", folders) == OTHER
    (site / unit.name).symlink_to("/dev/null")
    assert owner_of_unit("gestalt-coordinator", folders) == OTHER, "one that is masked is the packaged one's all the same"
    (site / unit.name).unlink()
    (site / unit.name).write_text(as_root(UNIT), encoding="utf-8")
    assert owner_of_unit("gestalt-coordinator", folders) == WRITER
    (site / unit.name).write_text(UNIT.replace("User=gestalt", "User=nobody-of-this-name"), encoding="utf-8")
    assert owner_of_unit("gestalt-coordinator", folders) == WRITER


def test_the_coordinators_user_gets_into_the_folder_and_has_its_own_files_only(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    for _ in ("made", "kept"):
        authority = Authority.ensure(pki, "c", owner=OTHER)
        authority.issue(Identity("c", Role.COORDINATOR, "one"), "coordinator", owner=OTHER)
        authority.issue(Identity("c", Role.NODE, "n"), "node")
        ensure_key(pki / "joined.key", OTHER)
        ensure_secret(pki / "a.secret", OTHER)
        assert owner_of(pki) == (0, OTHER.group, 0o1770)
        for name in ("ca.key", "coordinator.key", "joined.key", "a.secret"):
            assert owner_of(pki / name) == (OTHER.user, OTHER.group, 0o600), name
            os.chown(pki / name, 0, 0)
        assert owner_of(pki / "coordinator.crt") == (OTHER.user, OTHER.group, 0o644)
        assert owner_of(pki / "node.key") == (0, 0, 0o600)
        assert owner_of(pki / "ca.crt") == (0, 0, 0o644)
        os.chown(pki, 0, 0)
        pki.chmod(0o700)


def test_below_a_root_of_its_own_everything_is_whose_it_is_made_by(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    initialise(layout, InitOptions(runtimes=("process",)))
    assert owner_of(layout.pki) == (0, 0, 0o700)
    assert {owner_of(key) for key in layout.pki.glob("*.key")} == {(0, 0, 0o600)}


async def test_to_become_a_user_is_to_have_nothing_of_roots() -> None:
    program = (
        "import os\nfrom gestalt.files import WRITER, Owner\nfrom gestalt.owner import become\n"
        f"print(repr(become(WRITER)), become(Owner({OTHER.user}, {OTHER.group})), os.getresuid(), os.getresgid(), os.getgroups())"
    )
    done = await shell.run((sys.executable, "-c", program), limit=30)
    ids = f"({OTHER.user}, {OTHER.user}, {OTHER.user}) ({OTHER.group}, {OTHER.group}, {OTHER.group}) [{OTHER.group}]"
    assert done.stdout.decode() == f"'' nobody {ids}\n", done.complaint()
    assert become(WRITER) == ""
    unnamed = await shell.run((sys.executable, "-c", "from gestalt.owner import *\nprint(become(Owner(54321, 54321)))"), limit=30)
    assert unnamed.stdout == b"54321\n", unnamed.complaint()
