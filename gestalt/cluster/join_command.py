"""`gestalt-agent join` and `gestalt-coordinator join`: the command line around joining."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from gestalt.errors import GestaltError, Kind

from .token import Purpose

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_NEXT = {"node": "gestalt-fence gestalt-agent", "coordinator": "gestalt-coordinator"}
_EXAMPLES = """examples:
  {program} join --token-file token
  ssh operator@first gestaltctl node token{flag} | {program} join --token-file -
"""


def join_command(purpose: Purpose, arguments: Sequence[str]) -> int:
    """Join as the arguments say; return the exit code. Everything that went wrong has been told."""
    options = _parser(purpose).parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own complaints; ours say the same in words
    try:
        _join(purpose, options)
    except GestaltError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return EXIT_USAGE if error.kind is Kind.INVALID else EXIT_FAILED
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or 'a file'}: {error.strerror or error}\nhint: run this as root; repeated, it goes on\n")
        return EXIT_FAILED
    return EXIT_OK


def _join(purpose: Purpose, options: argparse.Namespace) -> None:
    from .join import JoinOptions, join
    from .layout import ClusterLayout
    from .settings import NodeChoices
    from .token import decode_token

    token = decode_token(_read_token(options.token_file))
    layout = ClusterLayout(options.root.resolve())
    node = NodeChoices()
    if purpose == "node":
        node = NodeChoices(
            roles=tuple(options.role),
            labels=dict(options.label),
            http_port=options.http_port,
            stats_port=options.stats_port,
            health_port=options.health_port,
            port_range=options.port_range,
            docker_socket=options.docker_socket,
            runtimes=tuple(options.runtime),
            hosts_file=options.hosts_file,
        )
    chosen = JoinOptions(options.name, options.address, options.api_port, options.join_port, options.again, node=node)
    files = asyncio.run(join(layout, purpose, token, chosen))
    for file in files:
        sys.stdout.write(f"{'made' if file.made else 'kept'}  {file.path}\n")
    if not any(file.made for file in files):
        sys.stdout.write("this machine has joined already; nothing was changed\n")
    sys.stdout.write(f"next: systemctl enable --now {_NEXT[purpose]}\n")


def _read_token(file: str) -> str:
    if file == "-":
        return sys.stdin.readline()
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GestaltError(
            Kind.INVALID, f"the token file {file} cannot be read: {error}", hint="--token-file FILE, or - for stdin"
        ) from error


def _parser(purpose: Purpose) -> argparse.ArgumentParser:
    program, flag = ("gestalt-agent", "") if purpose == "node" else ("gestalt-coordinator", " --coordinator")
    parser = argparse.ArgumentParser(
        prog=f"{program} join",
        description=f"Make this machine a {purpose} of a cluster, with a token of `gestaltctl node token{flag}`.",
        epilog=_EXAMPLES.format(program=program, flag=flag),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    host = socket.gethostname().partition(".")[0] or purpose
    parser.add_argument("--token-file", required=True, metavar="FILE", help="the file with the token; - reads it from standard input")
    parser.add_argument("--address", default="", metavar="IP", help="of this machine (default: the one it reaches the cluster from)")
    parser.add_argument("--name", default=host, metavar="NAME", help="of this machine (default: the first part of its host name)")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="folder of etc, var and run (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="ask although this machine has joined: a new certificate, the settings stay")
    parser.add_argument("--api-port", type=int, default=7400, help=argparse.SUPPRESS if purpose == "node" else "port of the API")
    parser.add_argument("--join-port", type=int, default=7401, help=argparse.SUPPRESS if purpose == "node" else "port of joining")
    if purpose == "node":
        _add_node_options(parser)
    return parser


def _add_node_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", action="append", default=[], metavar="ROLE", help="such as edge; may be repeated")
    parser.add_argument("--label", action="append", default=[], type=_label, metavar="KEY=VALUE", help="may be repeated")
    parser.add_argument("--http-port", type=int, default=80, metavar="PORT", help="on which HAProxy serves http (default: %(default)s)")
    parser.add_argument("--stats-port", type=int, default=0, metavar="PORT", help="of HAProxy's statistics (default: none)")
    parser.add_argument(
        "--health-port", type=int, default=7402, metavar="PORT", help="of the agent's health service (default: %(default)s)"
    )
    parser.add_argument("--port-range", type=_range, default=(3000, 4000), metavar="FIRST-LAST", help="host ports for instances")
    parser.add_argument("--docker-socket", type=Path, default=Path("/var/run/docker.sock"), metavar="FILE", help="Docker's socket")
    parser.add_argument(
        "--runtime", action="append", default=[], metavar="NAME", help="to offer; may be repeated (default: docker, process)"
    )
    parser.add_argument(
        "--hosts-file",
        type=Path,
        metavar="FILE",
        help="keep the nodes' names and addresses in a block of it: /etc/hosts (default: none)",
    )


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of ports such as 3000-4000")
    return int(first), int(last)
