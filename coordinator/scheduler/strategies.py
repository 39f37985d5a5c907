"""By which strategy an app is placed: its own word, that of its pool, that of the cluster, or `spread`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gestalt.spec.schema import AppSpec, Placement

from .values import DEFAULT_POOL

KNOWN = ("spread", "binpack")
DEFAULT = "spread"


@dataclass(frozen=True, slots=True)
class Strategies:
    """What operators said for apps that say nothing themselves: for all of the cluster, and by pool, which counts more. Empty = nothing."""

    cluster: str = ""
    pools: Mapping[str, str] = field(default_factory=dict)

    def of(self, placement: Placement) -> tuple[str, str]:
        """Return the strategy of an app, and whose word it is: "app", "pool", "cluster" or "default"."""
        pool = self.pools.get(placement.pool or DEFAULT_POOL, "")
        for strategy, source in ((placement.strategy, "app"), (pool, "pool"), (self.cluster, "cluster")):
            if strategy:
                return strategy, source
        return DEFAULT, "default"

    def put(self, pool: str, strategy: str) -> Strategies:
        """Return them with another word for a pool, or, with an empty pool, for the cluster. An empty strategy takes the word back."""
        if not pool:
            return replace(self, cluster=strategy)
        others = {name: word for name, word in self.pools.items() if name != pool}
        return replace(self, pools=dict(sorted({**others, pool: strategy}.items())) if strategy else others)


NOTHING_SAID = Strategies()


def settled(spec: AppSpec, strategies: Strategies) -> AppSpec:
    """Return a description with its strategy in it."""
    strategy, _ = strategies.of(spec.placement)
    if strategy == (spec.placement.strategy or DEFAULT):
        return spec
    return spec.model_copy(update={"placement": spec.placement.model_copy(update={"strategy": strategy})})


def told(placement: Placement, strategies: Strategies) -> str:
    """Say which strategy operators chose for an app that says nothing; empty when it does, or they did not."""
    strategy, source = strategies.of(placement)
    words = {"pool": f"for pool {placement.pool or DEFAULT_POOL}", "cluster": "for the whole cluster"}
    return f"placement.strategy is {strategy}, as was said {words[source]}" if source in words else ""


POOLS_SHOWN = 20
"""So many pools are named where something is said of another one."""


def doubts(before: Strategies, pool: str, strategy: str, pools: Iterable[str]) -> tuple[str, ...]:
    """Say what looks like a slip of who says something of a pool: it may be meant, as a pool may be prepared before its first node joins.

    Args:
        before: what was said until now.
        pool: of which something is said; empty = of the cluster.
        strategy: what is said; empty = nothing any more.
        pools: those that nodes are in.
    """
    if not pool:
        return ()
    if not strategy:
        there = f"something was said of {_listed(before.pools)}" if before.pools else "of none was there anything said"
        return () if pool in before.pools else (f"nothing was said of pool {pool}: {there}",)
    known = set(pools)
    there = f"there are nodes in {_listed(known)}" if known else "there are no nodes yet"
    return () if pool in known else (f"no node is in pool {pool}: {there}",)


def _listed(pools: Iterable[str]) -> str:
    names = sorted(pools)
    more = f" and {len(names) - POOLS_SHOWN} more" if len(names) > POOLS_SHOWN else ""
    return ", ".join(names[:POOLS_SHOWN]) + more
