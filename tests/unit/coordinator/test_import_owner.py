"""An import by root into a folder that is another user's: done as that user, who can lead it nowhere by links and can use the outcome."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt.appliance.layout import Layout
from gestalt.coordinator.export import export_pieces
from gestalt.coordinator.importing import MACHINE
from gestalt.coordinator.store.base import Snapshot
from gestalt.coordinator.store.formats import newest
from gestalt.files import Owner

NOBODY = pwd.getpwnam("nobody")
OTHER = Owner(NOBODY.pw_uid, NOBODY.pw_gid)
IMPORT = "import sys\nfrom gestalt.coordinator.import_command import import_command\nsys.exit(import_command(sys.argv[1:]))"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Place:
    """A coordinator's settings and the folder of its store, which is nobody's; a secret of root's beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "state"
        self.folder.mkdir(mode=0o700)
        os.chown(self.folder, OTHER.user, OTHER.group)
        self.database = self.folder / "state.db"
        self.secret = root / "secret"
        self.secret.write_text("root's own\n", encoding="utf-8")
        self.secret.chmod(0o600)
        self.file = root / "state.export"

    def imports(self, *more: str, cluster: str = "c") -> subprocess.CompletedProcess[str]:
        self.file.write_bytes(b"".join(export_pieces(Snapshot((), 7, 3, cluster, "h", newest()))))
        self.file.chmod(0o600)
        settings = self.root / "coordinator.yaml"
        tls = "tls: {ca: /ca, certificate: /crt, key: /key}"
        settings.write_text(f"cluster_id: c\n{tls}\nstore: {{path: {self.database}}}\ndata_dir: {self.folder}\n", encoding="utf-8")
        settings.chmod(0o600)
        words = [sys.executable, "-c", IMPORT, "--settings", str(settings), *more, str(self.file)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    def owners(self) -> set[tuple[int, int]]:
        return {(there.st_uid, there.st_gid) for there in (path.lstat() for path in self.folder.iterdir())}

    def is_untouched(self) -> bool:
        there = self.secret.stat()
        return (self.secret.read_text(encoding="utf-8"), there.st_uid, there.st_mode & 0o777) == ("root's own\n", 0, 0o600)


@pytest.fixture
def place() -> Iterator[Place]:
    root = Path(tempfile.mkdtemp(prefix="gestalt-import-"))  # pytest's own folders are shut to others
    root.chmod(0o755)
    yield Place(root)
    shutil.rmtree(root)


def test_what_is_imported_is_the_owners_also_after_a_refusal(place: Place) -> None:
    done = place.imports()
    assert done.returncode == 0, done.stderr
    assert place.owners() == {(OTHER.user, OTHER.group)}
    (place.folder / "state.db-x").symlink_to(place.secret)
    refused = place.imports()
    assert refused.returncode == 5, refused.stderr
    assert place.owners() == {(OTHER.user, OTHER.group), (0, 0)}, "the link is root's, as the test made it"
    assert place.imports("--replace").returncode == 0
    assert place.is_untouched()


def test_files_are_the_owners_although_the_first_import_is_refused(place: Place) -> None:
    place.database.write_text("no database", encoding="utf-8")
    os.chown(place.database, OTHER.user, OTHER.group)
    refused = place.imports()
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert place.owners() == {(OTHER.user, OTHER.group)}


@pytest.mark.parametrize("name", ["state.db", "state.db.lock"])
def test_a_link_leads_root_nowhere(place: Place, name: str) -> None:
    (place.folder / name).symlink_to(place.secret)
    done = place.imports()
    assert place.is_untouched()
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert str(place.database) in done.stderr


def test_a_folder_that_is_a_link_of_its_owners_leads_root_nowhere(place: Place) -> None:
    private = place.root / "private"
    private.mkdir(mode=0o700)
    (private / "below").mkdir(mode=0o700)
    place.folder.rmdir()
    place.folder.symlink_to(private)
    os.lchown(place.folder, OTHER.user, OTHER.group)
    for database in (place.database, place.folder / "below/state.db"):
        place.database = database
        assert place.imports().returncode != 0
    assert list(private.rglob("*")) == [private / "below"]


def test_a_missing_folder_is_made_for_whom_the_unit_names_only_where_the_machines_own_is(place: Place) -> None:
    place.folder.rmdir()
    assert place.imports().returncode == 0
    assert place.folder.stat().st_uid == 0
    assert Layout(Path("/")) == MACHINE
    become = (
        "import os, sys\nfrom pathlib import Path\nfrom gestalt.appliance.layout import Layout\nfrom gestalt.files import Owner\n"
        "from gestalt.coordinator.importing import _become_owner\n"
        f"class Machine(Layout):\n    coordinator_owner = Owner({OTHER.user}, {OTHER.group})\n"
        "_become_owner(Path(sys.argv[2]), Machine(Path(sys.argv[1])))\nprint(os.geteuid())"
    )
    database = place.root / "var/lib/gestalt/coordinator/state.db"
    words = [sys.executable, "-c", become, str(place.root), str(database)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{OTHER.user}\n"
    assert (database.parent.stat().st_uid, database.parent.stat().st_mode & 0o777) == (OTHER.user, 0o700)
    assert database.parent.parent.stat().st_uid == 0
