"""cluster export, import, recover: the whole state as a file, and what follows when it was put back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.report import warn
from gestalt.ctl.session import converse
from gestalt.ctl.style import is_terminal

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.cluster.export_file import Export
    from gestalt.proto.v1 import api_pb2

_STDOUT = Path("-")


@click.command(epilog=examples("gestaltctl cluster export", "gestaltctl cluster export /backup/gestalt.export --force"))
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@connected
@output_option
def export(file: Path | None, force: bool, output: str) -> None:
    """Write the whole state of the cluster, or of an appliance, into a file.

    FILE is - for standard output; without one it is named after the time. It holds what the store holds: the certificates and secrets of
    the machines are not in it. `gestaltctl cluster import` puts it back.
    """
    from gestalt.cluster.export import check_target, fetch_export, write_export

    target = file or _named()
    if target != _STDOUT:
        check_target(target, force=force)
    content, found = converse(lambda client: fetch_export(client, _progress()))
    if is_terminal(sys.stderr):
        print("\r\x1b[K", end="", file=sys.stderr)
    write_export(None if target == _STDOUT else target, content)
    if target != _STDOUT:
        _tell_export(output, target, len(content), found)


def _named() -> Path:
    from gestalt.clock import wall

    return Path(f"gestalt-{wall():%Y%m%d-%H%M%S}.export")


def _progress() -> Any:
    shown = is_terminal(sys.stderr)

    def tell(size: int) -> None:
        from gestalt.units import show_size

        if shown:
            print(f"\r{show_size(size)}", end="", file=sys.stderr, flush=True)

    return tell


def _tell_export(output: str, target: Path, size: int, found: Export) -> None:
    from dataclasses import asdict

    from gestalt.units import show_size

    header = found.header
    sentence = (
        f"{target}: {header.documents} documents, {show_size(size)}, as of commit {header.commit} of epoch {header.epoch}\n"
        "keep a copy of etc/gestalt of a coordinator with it: certificates and secrets are not in the file"
    )
    shape = {"file": str(target), "bytes": size, "sha256": found.sha256, **asdict(header)}
    emit(output, lambda: shape, lambda: [str(target)], lambda _: print(sentence))


@click.command(
    name="import",
    epilog=examples(
        "gestaltctl cluster import gestalt.export",
        "gestaltctl cluster import gestalt.export --replace --settings /etc/gestalt/coordinator.yaml",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--settings",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/gestalt/coordinator.yaml"),
    show_default=True,
    help="Settings of the coordinator on this machine.",
)
@click.option("--replace", is_flag=True, help="Put it in the place of a state that is newer, or of another history.")
@click.option("--above", type=click.IntRange(min=0), default=0, metavar="EPOCH", help="An epoch that agents have seen, if they say so.")
@output_option
def import_(file: Path, settings: Path, replace: bool, above: int, output: str) -> None:
    """Put an exported state into the store of this machine's coordinator.

    Nobody may lead meanwhile: stop the coordinators first. Instances go on. Afterwards the leader is recovering: see
    `gestaltctl cluster recover`.
    """
    from gestalt.cluster.program import become

    options = ["--settings", str(settings), "--above", str(above), "--output", output, *(["--replace"] if replace else [])]
    become("gestalt-coordinator", ["import", *options, "--", str(file)])


@click.command(epilog=examples("gestaltctl cluster recover", "gestaltctl cluster recover --confirm"))
@click.option("--confirm", is_flag=True, help="End the recovery: what is unknown is stopped and removed, what is lost is replaced.")
@connected
@output_option
def recover(confirm: bool, output: str) -> None:
    """Show what runs but is unknown since the state was put back; with --confirm end the recovery."""

    async def work(client: Client) -> tuple[bool, list[api_pb2.Unknown], int]:
        from gestalt.proto.v1 import api_pb2

        status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        silent = status.nodes - status.nodes_ready if status.recovering else 0
        if confirm:
            reply = await client.call(lambda api: api.recovery.Recover, api_pb2.RecoverRequest())
            return bool(reply.changed), list(reply.unknown), silent
        return status.recovering, list(status.unknown), silent

    answer, unknown, silent = converse(work, patience=30)
    state = {"changed": answer, "recovering": False} if confirm else {"recovering": answer}
    found = [{"node": item.node, "instance": item.instance, "app": item.app} for item in unknown]

    def people(_: bool) -> None:
        print_table([Column("NODE"), Column("INSTANCE"), Column("APP")], [(item.node, item.instance, item.app) for item in unknown])
        print(_sentence(confirm, answer, len(unknown)))
        if silent:
            warn(f"{silent} nodes are not ready: what they run is not in this list, as far as they have not told it")

    emit(output, lambda: {**state, "unknown": found}, lambda: [item.instance for item in unknown], people)


def _sentence(confirm: bool, answer: bool, unknown: int) -> str:
    if not confirm:
        if not answer:
            return "the cluster is not recovering"
        what = f"{unknown} unknown instances go on, and" if unknown else "nothing that runs is unknown, but"
        return f"the cluster is recovering: {what} nothing is removed or replaced until: gestaltctl cluster recover --confirm"
    if not answer:
        return "the cluster was not recovering: nothing was changed"
    return f"the recovery is over: {unknown} unknown instances are removed now" if unknown else "the recovery is over"
