"""Putting an export into the store of this machine's coordinator, while nobody leads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gestalt.appliance.layout import Layout
from gestalt.cluster.export_file import Header, read_export
from gestalt.cluster.init import read_founder
from gestalt.cluster.secrets import read_secret
from gestalt.config import CoordinatorSettings
from gestalt.errors import GestaltError, Kind
from gestalt.files import WRITER, Owner
from gestalt.owner import become

from .election import Candidate, session_in
from .export import documents_of
from .restoring import STRIDE, Loss, Target, fitted, loss
from .store.base import MetaStore, OutcomeUnknown, Restored, StoreError
from .store.sqlite import SqliteStore
from .witness import Witness

if TYPE_CHECKING:
    from gestalt.zk.client import Zk
    from gestalt.zk.paths import Paths

CONNECT_LIMIT = 10.0
MACHINE = Layout(Path("/"))


@dataclass(frozen=True, slots=True)
class Choice:
    """What the operator asks for. `replace`: although something is lost. `above`: an epoch that agents have seen.

    `patience`: seconds for which ZooKeeper may not answer.
    """

    file: Path
    replace: bool = False
    above: int = 0
    patience: float = CONNECT_LIMIT


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done: from which file, what the store is at now, and what it lost."""

    header: Header
    restored: Restored
    loss: Loss


async def put_back(settings: CoordinatorSettings, choice: Choice) -> Outcome:
    """Put an export into the store that the settings name.

    As root, this process becomes for good whose the folder of an SQLite store is, before anything in it is opened.

    Raises:
        GestaltError: the file is bad (INVALID, NOT_FOUND) or of another cluster (CONFLICT); somebody leads or holds the store (REFUSED);
            something would be lost that nobody agreed to lose (CONFLICT); the store cannot be reached. Nothing changed, unless it says that
            the outcome is not known: then the same call with `replace` is right.
    """
    export = read_export(choice.file)
    _check_cluster(export.header, settings)
    founder = read_founder(settings.authority) if settings.authority is not None else None
    documents = fitted(documents_of(export), export.header, Target(settings.mode, founder))
    nodes = [document.key for document in documents if document.kind == "node"]
    async with _opened(settings, nodes, choice.patience) as store:
        present = await store.load()
        _check_format(export.header, present.format)
        lost = loss(present, export.header, documents_of(export))
        if lost and not choice.replace:
            raise GestaltError(
                Kind.CONFLICT,
                f"{lost.sentence()} (file: commit {export.header.commit} of {export.header.at})",
                hint="keep what is there by `gestaltctl cluster export`, then add --replace to lose it",
            )
        seen = Witness.of(settings).seen
        highest = max(export.header.epoch, present.epoch, choice.above, seen.epoch if seen else 0)
        epoch = highest + STRIDE - 1
        try:
            restored = await store.restore(documents, commit=export.header.commit + 1, epoch=epoch, expected=present.commit)
        except OutcomeUnknown as unknown:
            raise GestaltError(
                Kind.UNAVAILABLE,
                f"the file may have been put into the store or not: {unknown.message}",
                hint="run it once more, with --replace: nothing can be lost by that but what this file brought",
            ) from unknown
    return Outcome(export.header, restored, lost)


def _check_cluster(header: Header, settings: CoordinatorSettings) -> None:
    if header.cluster_id != settings.cluster_id:
        raise GestaltError(
            Kind.CONFLICT,
            f"the file is of cluster {header.cluster_id}, the settings are of cluster {settings.cluster_id}",
            hint="import it on a machine of that cluster, or with the settings and the pki folder of one put back first",
        )


def _check_format(header: Header, present: int) -> None:
    """Refuse documents with fields that the store's format does not have: coordinators that read only that one would lose them."""
    if header.store_format > present:
        raise GestaltError(
            Kind.REFUSED,
            f"the file has documents of format {header.store_format}, the store has format {present}",
            hint="upgrade all coordinators and finalize that first: gestaltctl cluster finalize-upgrade",
        )


@asynccontextmanager
async def _opened(settings: CoordinatorSettings, nodes: list[str], patience: float) -> AsyncIterator[MetaStore]:
    if settings.zookeeper is None:
        _become_owner(settings.store.path)
        async with _open(SqliteStore(settings.store.path, settings.cluster_id)) as store:
            yield store
        return
    from gestalt.zk.client import Zk, ZkUnavailable
    from gestalt.zk.known import KnownServers, kept_in
    from gestalt.zk.paths import Paths

    from .store.zookeeper import ZookeeperStore

    try:
        hosts = KnownServers(settings.zookeeper.hosts, kept_in(settings.data_dir)).hosts
        access = settings.zookeeper.model_copy(update={"hosts": hosts})
        zk = await Zk.connect(access, session=CONNECT_LIMIT, name="import", limit=patience)
    except ZkUnavailable as error:
        hint = "more than half of its servers must run; correct zookeeper.hosts in coordinator.yaml if they have moved"
        raise GestaltError(Kind.UNAVAILABLE, f"ZooKeeper cannot be reached: {error}", hint=hint) from error
    try:
        await _refuse_leader(zk, Paths(settings.zookeeper.root), settings.timing.session)
        await _plant(zk, settings, nodes)
        async with _open(ZookeeperStore(zk, Paths(settings.zookeeper.root), settings.cluster_id)) as store:
            yield store
    finally:
        await zk.close()


@asynccontextmanager
async def _open(store: MetaStore) -> AsyncIterator[MetaStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _refuse_leader(zk: Zk, paths: Paths, session: float) -> None:
    """Refuse to go on while somebody leads: a leader in office writes its znode several times in a session's length."""
    if not await zk.exists(paths.election) or not await zk.children(paths.election):
        return
    before = await zk.get(paths.leader)
    await asyncio.sleep(max(session, session_in(before[0]) if before is not None else 0.0))
    after = await zk.get(paths.leader)
    if after is not None and (before is None or before[1].modified != after[1].modified):
        name = Candidate.decode(after[0])
        raise GestaltError(
            Kind.REFUSED,
            f"the coordinator {name.name} leads at {name.address}",
            hint="stop all coordinators first: systemctl stop gestalt-coordinator; instances go on",
        )


async def _plant(zk: Zk, settings: CoordinatorSettings, nodes: list[str]) -> None:
    """Have the znodes that are there before any store: ZooKeeper may have been wiped."""
    from gestalt.cluster.tree import Rights, Tree

    zookeeper = settings.zookeeper
    if zookeeper is None or zookeeper.secret_file is None:
        return
    tree = Tree(zk, zookeeper.root, Rights(read_secret(zookeeper.secret_file)))
    await tree.make(settings.cluster_id)
    for node in nodes:
        await tree.admit(node)


def _become_owner(database: Path, machine: Layout = MACHINE) -> None:
    """Have the folder of a database, and become whose it is: who may write there could lead root elsewhere by links.

    A folder that the machine's own coordinator lacks is made for that one's user.

    Raises:
        StoreError: the folder cannot be had.
    """
    if os.geteuid() != 0:
        return
    folder = database.parent
    try:
        nearest = next(part for part in (folder, *folder.parents) if os.path.lexists(part))
        owner = _owner(nearest)
        if nearest != folder and owner == WRITER and machine.data in folder.parents:
            owner = machine.coordinator_owner
            folder.mkdir(mode=0o700, parents=True)
            os.chown(folder, owner.user, owner.group, follow_symlinks=False)
    except OSError as error:
        raise StoreError(f"{database}: {error}") from error
    become(owner)


def _owner(folder: Path) -> Owner:
    """Return whose a folder is, or a link on the way to it; WRITER, where that is root."""
    links = [part.lstat() for part in (folder, *folder.parents) if part.is_symlink()]
    for there in (*links, folder.stat()):
        if there.st_uid != 0:
            return Owner(there.st_uid, there.st_gid)
    return WRITER
