"""Every znode path of a cluster, below its root.

cluster                      ids and format, JSON
epoch                        its version and content fence every write of a leader
store/…                      the documents: the store's own affair
election/c-…                 a candidate each, ephemeral and sequential: JSON of name, address, version
leader                       who leads, JSON; written in the transaction that takes office
barred-<name>                there while the coordinator of that name is removed: it may not take office
nodes/<id>                   made when the node joins; only the node itself and coordinators may change what is below
nodes/<id>/member            ephemeral, of the node's fence: JSON of incarnation, boot, agent
nodes/<id>/lease             persistent, JSON, `grants.LeaseMark`; each committed write renews
grants/<name>                who may hold an exclusive thing, JSON, `grants.GrantMark`
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths below one root ("/gestalt")."""

    root: str

    @property
    def cluster(self) -> str:
        return f"{self.root}/cluster"

    @property
    def epoch(self) -> str:
        return f"{self.root}/epoch"

    @property
    def store(self) -> str:
        return f"{self.root}/store"

    @property
    def election(self) -> str:
        return f"{self.root}/election"

    @property
    def leader(self) -> str:
        return f"{self.root}/leader"

    def barred(self, coordinator: str) -> str:
        return f"{self.root}/barred-{coordinator}"

    @property
    def nodes(self) -> str:
        return f"{self.root}/nodes"

    @property
    def grants(self) -> str:
        return f"{self.root}/grants"

    def node(self, node: str) -> str:
        return f"{self.nodes}/{node}"

    def member(self, node: str) -> str:
        return f"{self.nodes}/{node}/member"

    def lease(self, node: str) -> str:
        return f"{self.nodes}/{node}/lease"

    def grant(self, name: str) -> str:
        return f"{self.grants}/{name}"
