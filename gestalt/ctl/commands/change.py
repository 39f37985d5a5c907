"""launch, apply, update: apps from description files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.changing import carry_out
from gestalt.ctl.describing import read_specs
from gestalt.ctl.options import Following, change_options, examples
from gestalt.ctl.session import converse

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from gestalt.client import Api
    from gestalt.proto.v1 import api_pb2

    Pick = Callable[[Api], grpc.aio.UnaryUnaryMultiCallable[api_pb2.LaunchRequest, api_pb2.ChangeReply]]

_files = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="App descriptions, - for standard input. Several are one change.",
)


@click.command(
    epilog=examples(
        "gestaltctl launch -f web.yaml", "cat web.yaml db.yaml | gestaltctl launch -f -", "gestaltctl launch -f web.yaml --detach -o name"
    )
)
@_files
@change_options
def launch(files: tuple[str, ...], **how: Any) -> None:
    """Launch new apps from description files.

    All apps of all files are launched, or none. Fails if one of them exists already; see apply and update.
    """
    _submit(lambda api: api.apps.Launch, files, Following(**how))


@click.command(
    epilog=examples("gestaltctl apply -f apps/web.yaml -f apps/db.yaml", "gestaltctl plan -f web.yaml && gestaltctl apply -f web.yaml")
)
@_files
@change_options
def apply(files: tuple[str, ...], **how: Any) -> None:
    """Launch apps that are new, update those that exist.

    Apps that are as described already are left alone.
    """
    _submit(lambda api: api.apps.Apply, files, Following(**how))


@click.command(epilog=examples("gestaltctl update -f web.yaml", "gestaltctl update -f web.yaml --expected-version 7 --timeout 5m"))
@_files
@change_options
def update(files: tuple[str, ...], **how: Any) -> None:
    """Update apps that exist to what files describe.

    Instances are replaced as the app's update section says; an update that does not become healthy is rolled back.
    """
    _submit(lambda api: api.apps.Update, files, Following(**how))


def _submit(pick: Pick, files: tuple[str, ...], how: Following) -> None:
    specs = read_specs(files)
    from gestalt.proto.v1 import api_pb2
    from gestalt.wire import spec_to_wire

    request = api_pb2.LaunchRequest(apps=[spec_to_wire(spec) for spec in specs])
    converse(lambda client: carry_out(client, pick, request, how), patience=60)
