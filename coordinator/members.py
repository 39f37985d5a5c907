"""Who belongs to the cluster: pure decisions on tokens, joining, leaving and what operators say of nodes.

Names are labels, but people address members by them, so that no two nodes share one, nor two coordinators. A node that is lost keeps its
name until it is removed.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from gestalt.cluster.names import check_address, check_labels, check_name, check_roles, split_address
from gestalt.cluster.secrets import secret_hash
from gestalt.cluster.token import PURPOSES
from gestalt.errors import Detail, GestaltError, Kind

from .records import Coordinator, Node, Token

LIFETIME = 3600.0
LIFETIME_MAX = 7 * 86400.0
"""Seconds that a token is good for: by default, and at most."""
KEPT = timedelta(days=1)
"""For how long a token is kept after its end, so that whoever comes late hears why it does not help any more."""

_NEW = "make a new one with: gestaltctl node token"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a machine that wants to join says of itself."""

    token: str
    secret: str
    purpose: str
    id: str
    name: str
    address: str
    join_address: str = ""
    roles: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


def new_token(identity: str, secret: str, purpose: str, lifetime: float, *, actor: str, now: datetime) -> Token:
    """Return what is kept of a new token.

    Raises:
        GestaltError: INVALID, when it is for no known purpose, or is to live too long.
    """
    if purpose not in PURPOSES:
        raise _invalid("purpose", f"{purpose!r} is none", " or ".join(PURPOSES))
    seconds = lifetime or LIFETIME
    if not 1 <= seconds <= LIFETIME_MAX:
        raise _invalid("lifetime", f"{seconds:g} s is too short or too long", "1s to 7d")
    expires = now + timedelta(seconds=seconds)
    return Token(identity, secret_hash(secret), purpose, now.isoformat(), expires.isoformat(), actor)


def stale_tokens(tokens: Iterable[Token], now: datetime) -> list[str]:
    """Return the ids of tokens that nobody needs to hear of any more."""
    return [token.id for token in tokens if datetime.fromisoformat(token.expires_at) + KEPT < now]


def check_asked(asked: Asked) -> None:
    """Refuse what is malformed.

    Raises:
        GestaltError: INVALID.
    """
    check_name("name", asked.name)
    try:
        well_formed = str(uuid.UUID(asked.id)) == asked.id
    except ValueError:
        well_formed = False
    if not well_formed:
        raise _invalid("id", "is not one", "a UUID")
    if asked.purpose == "coordinator":
        for address in filter(None, (asked.address, asked.join_address)):
            split_address("address", address)
    else:
        check_address("address", asked.address)
    check_roles(asked.roles)
    check_labels(dict(asked.labels))


def check_token(token: Token | None, asked: Asked, now: datetime) -> None:
    """Refuse a machine whose token does not admit it. Only who knows the secret is told more.

    Raises:
        GestaltError: UNAUTHENTICATED when it is no token of ours or expired, REFUSED when it was used or is for something else.
    """
    if token is None or not hmac.compare_digest(token.hash, secret_hash(asked.secret)):
        raise GestaltError(Kind.UNAUTHENTICATED, "this token is not valid in this cluster", hint=_NEW)
    if datetime.fromisoformat(token.expires_at) <= now:
        raise GestaltError(Kind.UNAUTHENTICATED, f"this token expired at {_minute(token.expires_at)}", hint=_NEW)
    if token.purpose != asked.purpose:
        raise GestaltError(
            Kind.REFUSED,
            f"this token is for joining as {token.purpose}, not as {asked.purpose or 'nothing'}",
            hint=_NEW + _flag(asked.purpose),
        )
    if token.used_by and token.used_by != asked.id:
        raise GestaltError(Kind.REFUSED, "this token was used already: one token admits one machine", hint=_NEW + _flag(asked.purpose))


def admit_node(nodes: Mapping[str, Node], token: Token, asked: Asked, at: str) -> Node:
    """Return the node as which a machine is admitted; the one that it is already when it asks again.

    Raises:
        GestaltError: REFUSED when it was removed, EXISTS when its id or its name is taken.
    """
    known = nodes.get(asked.id)
    if token.used_by:
        if known is None:
            raise GestaltError(Kind.REFUSED, "this node was removed from the cluster", hint="to join it again " + _NEW)
        return known
    if known is not None:
        raise GestaltError(
            Kind.EXISTS, f"this machine is node {known.name} already", hint=f"to join it anew, first: gestaltctl node remove {known.name}"
        )
    _check_free(asked.name, {node.name for node in nodes.values()}, "node")
    return Node(asked.id, asked.name, address=asked.address, roles=tuple(sorted(set(asked.roles))), labels=dict(asked.labels), joined_at=at)


def admit_coordinator(coordinators: Mapping[str, Coordinator], token: Token, asked: Asked, at: str) -> Coordinator:
    """The same for a coordinator, which is known by its name.

    Raises:
        GestaltError: as `admit_node`.
    """
    known = coordinators.get(asked.name)
    if token.used_by:
        if known is None:
            raise GestaltError(Kind.REFUSED, "this coordinator was removed from the cluster", hint="to join it again " + _NEW)
        return known
    _check_free(asked.name, coordinators, "coordinator")
    return Coordinator(asked.name, asked.address, asked.join_address, at)


def check_coordinator_removable(coordinators: Mapping[str, Coordinator], name: str, leader: str) -> Coordinator:
    """Return the coordinator to remove. `leader`: the name of the one that leads.

    Raises:
        GestaltError: NOT_FOUND, or REFUSED for the leader: so there is always one left.
    """
    found = coordinators.get(name)
    if found is None:
        raise GestaltError(Kind.NOT_FOUND, f"there is no coordinator {name!r}", hint="`gestaltctl coordinator list` lists them")
    if len(coordinators) < 2:
        raise GestaltError(
            Kind.REFUSED, f"{name} is the only coordinator", hint="let another one join first: gestaltctl node token --coordinator"
        )
    if name == leader:
        raise GestaltError(Kind.REFUSED, f"{name} leads", hint="have it hand over first: gestaltctl cluster step-down")
    return found


def find_node(nodes: Iterable[Node], text: str) -> Node:
    """Return the node that a name, an id or the beginning of an id means.

    Raises:
        GestaltError: NOT_FOUND.
    """
    known = list(nodes)
    found = [node for node in known if text in (node.id, node.name)] or [
        node for node in known if len(text) >= 4 and node.id.startswith(text)
    ]
    if len(found) != 1:
        problem = f"{len(found)} nodes are called {text!r}" if found else f"there is no node {text!r}"
        raise GestaltError(Kind.NOT_FOUND, problem, hint="`gestaltctl nodes` lists them")
    return found[0]


def relabelled(node: Node, put: Mapping[str, str], drop: Collection[str], add_roles: Collection[str], drop_roles: Collection[str]) -> Node:
    """Return a node with other labels and roles. What is both put and dropped is refused; dropping what is not there is fine.

    Raises:
        GestaltError: INVALID.
    """
    both = sorted({*put} & {*drop} | {*add_roles} & {*drop_roles})
    if both:
        raise _invalid("labels", f"{', '.join(both)} is both to be there and not", "each once")
    labels = {key: value for key, value in node.labels.items() if key not in drop} | dict(put)
    roles = tuple(sorted({*node.roles, *add_roles} - {*drop_roles}))
    check_labels(labels)
    check_roles(roles)
    return replace(node, labels=labels, roles=roles)


def confirmed_dead(node: Node) -> Node:
    """Return a node with its loss confirmed: nothing of that incarnation is at work any more.

    Raises:
        GestaltError: REFUSED, when it is not lost.
    """
    if not node.lost or node.lost != node.incarnation:
        raise GestaltError(
            Kind.REFUSED,
            f"node {node.name} is not lost: there is nothing to confirm",
            hint="switch the machine off first; `gestaltctl nodes` shows when its loss is noted",
        )
    return replace(node, confirmed=node.lost)


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node has at work: apps by path. `exclusive`: those that must never run twice."""

    apps: tuple[str, ...] = ()
    exclusive: tuple[str, ...] = ()


def check_removable(node: Node, state: str, holding: Holding, *, force: bool) -> None:
    """Refuse to remove a node that has work. `state`: how it stands, in one word.

    Removal counts as certainty that nothing is at work there, so that exclusive things need more than force.

    Raises:
        GestaltError: REFUSED.
    """
    is_lost = state == "lost"
    is_dead = is_lost and bool(node.lost) and node.confirmed == node.lost
    if holding.exclusive and not is_dead:
        raise GestaltError(
            Kind.REFUSED,
            f"node {node.name} has what must not run twice: {', '.join(holding.exclusive[:3])}",
            hint=f"stop it first, or switch the machine off and say so: gestaltctl node confirm-dead {node.name}",
        )
    if holding.apps and not is_lost and not force:
        raise GestaltError(
            Kind.REFUSED,
            f"node {node.name} is {state} and has {len(holding.apps)} app{'s' if len(holding.apps) > 1 else ''} at work",
            hint=f"take them away first: gestaltctl node drain {node.name}; or add --force",
        )


def _check_free(name: str, taken: Collection[str], kind: str) -> None:
    if name in taken:
        replaces = f"; if this machine replaces that one, first: gestaltctl node remove {name}" if kind == "node" else ""
        raise GestaltError(Kind.EXISTS, f"there is a {kind} called {name} already", hint=f"join with another --name{replaces}")


def _invalid(field_name: str, problem: str, allowed: str) -> GestaltError:
    detail = Detail(field_name, problem, allowed)
    return GestaltError(Kind.INVALID, f"{field_name}: {problem}; allowed: {allowed}", details=[detail])


def _flag(purpose: str) -> str:
    return " --coordinator" if purpose == "coordinator" else ""


def _minute(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M} UTC"
