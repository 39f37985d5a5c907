"""Export and import with the real commands: an appliance's coordinator, coordinators with ZooKeeper, and files that are no good."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gestalt.cluster.export_file import Header, Item, read_export, write_pieces
from gestalt.config import CoordinatorSettings, FenceSettings
from gestalt.coordinator.import_command import import_command
from gestalt.coordinator.importing import Choice, put_back
from gestalt.coordinator.records import Node
from gestalt.coordinator.restoring import STRIDE
from gestalt.coordinator.state import encode
from gestalt.coordinator.store import OutcomeUnknown, Restored, Snapshot, store_for
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.errors import GestaltError, Kind
from gestalt.pki import Role
from gestalt.settings_file import load_settings
from gestalt.zk.client import Zk, ZkRefused
from gestalt.zk.paths import Paths
from tests.real.cluster_rig import Cluster, Ended, command
from tests.real.coordinator_rig import Rig
from tests.real.coordinators_rig import Coordinators
from tests.real.zookeeper_lab import Ensemble, new_root
from tests.unit.coordinator.world import PATH

LATER = "/org/ws/env/later"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.up()
    yield rig
    await rig.down()


def contexts(rig: Rig) -> dict[str, str]:
    """Return the environment of a gestaltctl that knows this coordinator."""
    tls = rig.tls(Role.USER, "alice")
    context = {"coordinators": [f"127.0.0.1:{rig.port}"], **{name: str(getattr(tls, name)) for name in ("ca", "certificate", "key")}}
    path = rig.folder / "contexts.yaml"
    path.write_text(yaml.safe_dump({"current": "rig", "contexts": {"rig": context}}))
    return {"GESTALT_CONFIG": str(path)}


def settings_file(rig: Rig, folder: str, **changes: Any) -> Path:
    """Write settings of a coordinator of the same cluster; by default with a SQLite store in a folder of its own."""
    tls = rig.tls(Role.COORDINATOR, "one")
    document = {
        "cluster_id": rig.cluster_id,
        "tls": {name: str(getattr(tls, name)) for name in ("ca", "certificate", "key")},
        "store": {"kind": "sqlite", "path": str(rig.folder / folder / "state.db")},
        **changes,
    }
    path = rig.folder / f"{folder}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def zookeeper_file(rig: Rig, ensemble: Ensemble, root: str) -> Path:
    changes = {"mode": "cluster", "store": {"kind": "zookeeper"}, "zookeeper": {"hosts": list(ensemble.hosts), "root": root}}
    return settings_file(rig, "zookeeper", **changes)


async def exported(rig: Rig, name: str = "state.export") -> Path:
    file = rig.folder / name
    made = await command("gestaltctl", "cluster", "export", str(file), env=contexts(rig))
    assert made.code == 0, made.err
    return file


async def imported(file: Path, settings: Path, *more: str) -> Ended:
    """Import as `gestaltctl cluster import` does, in this process: programs take seconds to start on a busy machine."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = await asyncio.to_thread(import_command, ["--settings", str(settings), *more, str(file)])
    return Ended(code, out.getvalue(), err.getvalue())


async def held(settings: Path) -> Snapshot:
    """Return what the store of these settings holds."""
    store = store_for(load_settings(settings, CoordinatorSettings))
    await store.open()
    try:
        return await store.load()
    finally:
        await store.close()


def values(snapshot: Snapshot, *kinds: str) -> dict[tuple[str, str], bytes]:
    return {(each.kind, each.key): each.value for each in snapshot.documents if each.kind in kinds}


async def test_an_export_is_whole_private_and_overwrites_nothing(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    file = await exported(rig)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    export = read_export(file)
    assert (export.header.cluster_id, export.header.epoch) == (rig.cluster_id, 1)
    assert {"app", "version", "placements", "task", "node", "audit"} <= {item.kind for item in export.items}
    before = file.read_bytes()
    again = await command("gestaltctl", "cluster", "export", str(file), env=contexts(rig))
    assert (again.code, "--force" in again.err, file.read_bytes()) == (5, True, before)
    told = await command("gestaltctl", "cluster", "export", str(file), "--force", "-o", "json", env=contexts(rig))
    shown = json.loads(told.out)
    assert (shown["documents"], shown["sha256"]) == (len(read_export(file).items), read_export(file).sha256)
    piped = await command("gestaltctl", "cluster", "export", "-", env=contexts(rig))
    assert piped.code == 0
    assert list(piped.out.splitlines()[1:-1]) == file.read_text().splitlines()[1:-1]
    nowhere = await command("gestaltctl", "cluster", "export", str(rig.folder / "none/x"), env=contexts(rig))
    assert nowhere.code == 3


async def test_a_state_goes_from_sqlite_to_zookeeper_and_back(rig: Rig, ensemble: Ensemble) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    file = await exported(rig)
    zookeeper, back = zookeeper_file(rig, ensemble, new_root()), settings_file(rig, "back")
    first = await imported(file, zookeeper, "--output", "json")
    assert first.code == 0, first.err
    there, source = await held(zookeeper), read_export(file)
    kept = {(item.kind, item.key): item.value for item in source.items}
    for kind in ("version", "placements", "task", "audit", "node"):
        assert values(there, kind) == {name: value for name, value in kept.items() if name[0] == kind}
    (app,) = values(there, "app").values()
    assert json.loads(app)["next_serial"] == json.loads(kept["app", PATH])["next_serial"] + STRIDE, "no id is given twice"
    assert json.loads(first.out)["restored"] == {"commit": there.commit, "epoch": there.epoch, "history_id": there.history_id}
    assert there.epoch == source.header.epoch + STRIDE
    assert there.commit > source.header.commit
    assert there.history_id != source.header.history_id

    await rig.down()
    cluster = Coordinators(rig.folder, ensemble, count=1, root=load_root(zookeeper), cluster_id=rig.cluster_id)
    try:
        await cluster.up()
        again = rig.folder / "again.export"
        made = await command("gestaltctl", "cluster", "export", str(again), env={"GESTALT_CONFIG": str(cluster.context_file())})
        assert made.code == 0, made.err
    finally:
        await cluster.down()
    second = await command("gestaltctl", "cluster", "import", str(again), "--settings", str(back))
    assert second.code == 0, second.err
    assert "gestaltctl cluster recover --confirm" in second.out
    returned = await held(back)
    for kind in ("version", "placements", "task"):
        assert values(returned, kind) == values(there, kind)
    assert returned.epoch > there.epoch + STRIDE
    assert not values(returned, "coordinator", "token")
    store = load_settings(back, CoordinatorSettings).store.path
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


def load_root(settings: Path) -> str:
    zookeeper = load_settings(settings, CoordinatorSettings).zookeeper
    assert zookeeper is not None
    return zookeeper.root


async def test_what_must_not_be_imported_changes_nothing(rig: Rig, ensemble: Ensemble, tmp_path: Path) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    file = await exported(rig)
    settings = settings_file(rig, "target")
    good = file.read_bytes()
    bad = tmp_path / "bad"
    for content, words in ((good[: len(good) // 2], "cut off"), (good.replace(b"web:1", b"web:2", 1), "checksum"), (b"hello", "no export")):
        bad.write_bytes(content)
        refusal = await imported(bad, settings)
        assert (refusal.code, words in refusal.err) == (2, True), refusal.err
    assert (await imported(tmp_path / "none", settings)).code == 3
    assert not (rig.folder / "target").exists()

    locked = settings_file(rig, "live", store={"kind": "sqlite", "path": str(rig.folder / "state.db")})
    refusal = await imported(file, locked)
    assert (refusal.code, "is held by process" in refusal.err) == (4, True), refusal.err

    other = settings_file(rig, "other", cluster_id="00000000-1111-2222-3333-444444444444")
    refusal = await imported(file, other)
    assert (refusal.code, "the settings are of cluster" in refusal.err) == (5, True), refusal.err
    gone = settings_file(rig, "gone", mode="cluster", store={"kind": "zookeeper"}, zookeeper={"hosts": ["127.0.0.1:1"], "root": new_root()})
    with pytest.raises(GestaltError, match="ZooKeeper cannot be reached") as unreachable:
        await put_back(load_settings(gone, CoordinatorSettings), Choice(file, patience=1.0))
    assert unreachable.value.kind is Kind.UNAVAILABLE


async def test_an_older_state_replaces_a_newer_one_only_when_asked(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    old = await exported(rig, "old")
    await rig.outcome(await rig.launch(path=LATER, ports=[], checks=[]))
    new = await exported(rig, "new")
    await rig.down()
    settings = settings_file(rig, "present", store={"kind": "sqlite", "path": str(rig.folder / "state.db")})
    before = await held(settings)
    refusal = await imported(old, settings)
    assert refusal.code == 5
    for words in ("commits after those of the file", "1 app would be gone: /org/ws/env/later", "--replace"):
        assert words in refusal.err, refusal.err
    assert await held(settings) == before
    done = await imported(old, settings, "--replace", "--output", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["replaced"]["apps"] == [LATER]
    assert len(values(await held(settings), "app")) == 1
    other = await imported(new, settings)
    assert (other.code, "a state of another history" in other.err) == (5, True), other.err


async def test_a_leader_in_office_is_not_pulled_away(rig: Rig, ensemble: Ensemble) -> None:
    cluster = Coordinators(rig.folder, ensemble, count=1, cluster_id=rig.cluster_id)
    try:
        await cluster.up()
        file = rig.folder / "cluster.export"
        environment = {"GESTALT_CONFIG": str(cluster.context_file())}
        assert (await command("gestaltctl", "cluster", "export", str(file), env=environment)).code == 0
        refusal = await imported(file, cluster.settings_file(0), "--replace")
        assert refusal.code == 4, refusal.err
        assert "coordinator-0 leads" in refusal.err
        assert await cluster.settled() == 0
        assert await cluster.stop(0) == 0
        done = await imported(file, cluster.settings_file(0), "--replace")
        assert done.code == 0, done.err
    finally:
        await cluster.down()


async def test_two_imports_at_once_do_not_mix(rig: Rig, ensemble: Ensemble) -> None:
    """Each counts as a whole or is refused; the store says which was the last."""
    await rig.agent()
    await rig.outcome(await rig.launch())
    file = await exported(rig)
    settings = load_settings(zookeeper_file(rig, ensemble, new_root()), CoordinatorSettings)
    outcomes = await asyncio.gather(*(put_back(settings, Choice(file)) for _ in range(2)), return_exceptions=True)
    assert any(not isinstance(outcome, BaseException) for outcome in outcomes), outcomes
    assert all(isinstance(outcome, GestaltError) for outcome in outcomes if isinstance(outcome, BaseException))
    assert len({each.revision for each in (await held(rig.folder / "zookeeper.yaml")).documents if each.kind == "app"}) == 1


async def test_an_import_whose_answer_was_lost_is_repeated_as_its_error_says(
    rig: Rig, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    file = await exported(rig)
    settings = load_settings(zookeeper_file(rig, ensemble, new_root()), CoordinatorSettings)
    restore = ZookeeperStore.restore

    async def unanswered(store: ZookeeperStore, *given: Any, **named: Any) -> Restored:
        await restore(store, *given, **named)
        raise OutcomeUnknown("the connection was cut", 1)

    with monkeypatch.context() as broken:
        broken.setattr(ZookeeperStore, "restore", unanswered)
        with pytest.raises(GestaltError, match="may have been put into the store or not") as unknown:
            await put_back(settings, Choice(file))
    assert (unknown.value.kind, "with --replace" in unknown.value.hint) == (Kind.UNAVAILABLE, True)
    await put_back(settings, Choice(file, replace=True))
    assert [each.key for each in (await held(rig.folder / "zookeeper.yaml")).documents if each.kind == "app"] == [PATH]


async def remove_all(zk: Zk, path: str) -> None:
    for child in await zk.children(path):
        await remove_all(zk, f"{path}/{child}")
    await zk.delete(path)


async def test_what_a_wiped_zookeeper_lacks_is_made_with_its_rights(tmp_path: Path, ensemble: Ensemble) -> None:
    cluster = Cluster(tmp_path, ensemble)
    assert (await cluster.init()).code == 0
    settings, fence = cluster.settings, load_settings(cluster.layout.fence_settings, FenceSettings)
    assert settings.zookeeper is not None
    zk = await Zk.connect(settings.zookeeper, session=5.0, name="wiper")
    try:
        await remove_all(zk, cluster.root)
    finally:
        await zk.close()
    header = Header(settings.cluster_id, "h", 1, 3, "0.2.0", "2026-01-01T00:00:00+00:00", 1, 1)
    file = tmp_path / "state.export"
    file.write_bytes(b"".join(write_pieces(header, [Item("node", fence.node_id, encode(Node(fence.node_id, "one")), 2)])))
    done = await imported(file, cluster.layout.coordinator_settings)
    assert done.code == 0, done.err
    (node,) = values(await held(cluster.layout.coordinator_settings), "node").values()
    assert json.loads(node)["address"] == "127.0.0.1", "as the first machine's init has it"
    paths, own = Paths(cluster.root), await Zk.connect(fence.zookeeper, session=5.0, name="fence")
    try:
        await own.create(paths.member(fence.node_id), b"{}", ephemeral=True)
        with pytest.raises(ZkRefused) as refusal:
            await own.create(f"{paths.election}/c-", b"")
        assert refusal.value.reason == "denied"
    finally:
        await own.close()
