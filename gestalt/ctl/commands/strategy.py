"""cluster strategy: by which strategy apps are placed that say nothing themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import click

from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.ctl.report import warn
from gestalt.ctl.session import converse

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2


class Answer(TypedDict):
    """What `-o json` prints: what holds now, whether this changed it, and what may not be as it was meant."""

    changed: bool
    strategy: str
    pools: dict[str, str]
    warnings: list[str]


@click.command(
    name="strategy",
    epilog=examples(
        "gestaltctl cluster strategy",
        "gestaltctl cluster strategy binpack",
        "gestaltctl cluster strategy binpack --pool gpu",
        "gestaltctl cluster strategy --unset --pool gpu",
    ),
)
@click.argument("strategy", type=click.Choice(["spread", "binpack"]), required=False)
@click.option("--pool", default="", metavar="POOL", help="Only apps of this pool; the default one is called default.")
@click.option("--unset", is_flag=True, help="Take back what was said.")
@connected
@output_option
def strategy(strategy: str | None, pool: str, unset: bool, output: str) -> None:
    """Show or say how apps are placed that name no strategy.

    An app's own placement.strategy counts most, then what was said of its pool, then of the cluster, else it is spread. What is placed
    already stays where it is; `gestaltctl rebalance` moves it.
    """
    if unset and strategy:
        raise click.UsageError("--unset stands beside a strategy; allowed: either", click.get_current_context())
    if pool and not (unset or strategy):
        raise click.UsageError("--pool stands alone; allowed: with a strategy, or with --unset", click.get_current_context())
    answer = converse(lambda client: _ask(client, strategy or "", pool, is_change=bool(unset or strategy)), patience=60)
    for text in answer["warnings"]:
        warn(text)

    def people(_: bool) -> None:
        for line in told(answer["strategy"], answer["pools"]):
            print(line)

    emit(output, lambda: answer, list, people)


async def _ask(client: Client, strategy: str, pool: str, *, is_change: bool) -> Answer:
    from gestalt.proto.v1 import api_pb2

    if is_change:
        reply = await client.call(lambda api: api.cluster.SetStrategy, api_pb2.StrategyRequest(pool=pool, strategy=strategy))
        return _answer(reply, changed=reply.changed, warnings=reply.warnings)
    status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
    return _answer(status)


def _answer(reply: api_pb2.StrategyReply | api_pb2.StatusReply, *, changed: bool = False, warnings: Sequence[str] = ()) -> Answer:
    pools = dict(sorted(reply.pool_strategies.items()))
    return {"changed": changed, "strategy": reply.strategy, "pools": pools, "warnings": list(warnings)}


def told(cluster: str, pools: dict[str, str]) -> list[str]:
    """Return by what apps are placed that name no strategy, a line each."""
    return [f"pool {name}: {word}" for name, word in pools.items()] + [f"the cluster: {cluster or 'spread, the default'}"]
