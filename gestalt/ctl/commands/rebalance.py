"""rebalance: move instances to where they stand better by the scheduler's own points, or show what would move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.changing import carry_out
from gestalt.ctl.options import Following, examples, task_options
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.report import notice
from gestalt.ctl.session import converse

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2

_COLUMNS = (
    Column("INSTANCE"),
    Column("APP", wide=True),
    Column("FROM"),
    Column("TO"),
    Column("GAIN", right=True),
    Column("WHY", fold=True),
)


@click.command(epilog=examples("gestaltctl rebalance --dry-run", "gestaltctl rebalance --budget 50 --parallel 5", "gestaltctl rebalance"))
@click.option("--budget", type=int, metavar="N", help="So many instances move in all.  [default: 10]")
@click.option("--parallel", type=int, metavar="N", help="So many at once.  [default: 2]")
@click.option("--min-gain", type=float, metavar="POINTS", help="What a move has to be worth.  [default: 0.1]")
@click.option("--stop-first", is_flag=True, help="Also what has to stop before it can move: exclusive apps, and fixed host ports.")
@click.option("--dry-run", is_flag=True, help="Show what would move, and why; change nothing.")
@task_options
def rebalance(dry_run: bool, output: str, request_id: str, **options: Any) -> None:
    """Move instances to nodes where they stand better.

    What a new instance would gain by the points of docs/placement.md, an old one gains by moving. Each stops when its replacement is
    healthy; a move that fails ends the rebalance. A second one directly afterwards moves nothing, unless the budget was used up.
    """
    how = Following(output, options.pop("detach"), options.pop("timeout"), request_id)

    async def plan(client: Client) -> api_pb2.RebalancePlan:
        from gestalt.proto.v1 import api_pb2

        return await client.call(lambda api: api.nodes.PlanRebalance, api_pb2.RebalanceRequest(**options))

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        await carry_out(client, lambda api: api.nodes.Rebalance, api_pb2.RebalanceRequest(**options), how)

    if dry_run:
        _print(converse(plan), output)
    else:
        converse(work, patience=60)


def _print(found: api_pb2.RebalancePlan, output: str) -> None:
    def shape() -> dict[str, Any]:
        from gestalt.ctl.shapes import shape as shape_of

        return shape_of(found)

    def people(wide: bool) -> None:
        rows = [(move.instance, move.app, move.from_node, move.to_node, f"{move.gain:.2f}", move.why) for move in found.moves]
        print_table(_COLUMNS, rows, wide=wide, empty="nothing would gain by moving")
        if found.cut_off:
            notice(found.cut_off)
        elif found.may_be_more:
            notice("there may be more: this is what the budget allowed")

    emit(output, shape, lambda: [move.instance for move in found.moves], people)
