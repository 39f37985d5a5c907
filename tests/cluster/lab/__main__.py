"""A lab by hand: `make lab N=5`, faults, `make lab-down`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import yaml

from gestalt.clock import monotonic

from .cluster import web
from .install import install
from .lab import FILES, Lab, find_lab, lower_lab, raise_lab
from .nodes import CHECKOUT, LabError, Node, build_image, can_run, up

USAGE = """usage: python -m tests.cluster.lab COMMAND
  up [N]                nodes with Docker, ZooKeeper and a Gestalt cluster (default: 3)
  nodes [N]             nodes alone
  image                 the image of the nodes
  down                  remove all of it

In the lab that is up (A, B: numbers of nodes; PART: agent, coordinator, fence, zookeeper, docker, haproxy):
  kill A | boot A       power off and on
  pause A | unpause A   hang the whole node
  cut A B               lose everything between two nodes      oneway A B   lose what A sends to B
  refuse A B            lose new connections from A to B       lose A B %   lose some packets
  isolate A             lose everything to and from a node
  heal                  all links whole                        heal-all     and all nodes and parts at work
  freeze A PART | thaw A PART | crash A PART
  stop A PART | start A PART | restart A PART      not haproxy, which the agent starts
"""
_NEXT = """{count} nodes are a cluster after {seconds:.0f} s:
{nodes}

In each shell, as root, first:
  cd {checkout}; export GESTALT_CONFIG={folder}/client.yaml PATH={checkout}/.venv/bin:$PATH
One shell: an app with three instances, then requests through the HAProxy of the first node, without an end
  gestaltctl launch -f {app}
  while sleep 0.2; do curl -sSf -m 5 -w '\\n' -H 'Host: shop' http://{first.address}/cgi-bin/who; done
Another one: watch it
  watch -n 1 gestaltctl status
A third one: take the power of a node, and give it back
  python -m tests.cluster.lab kill {last}
  python -m tests.cluster.lab boot {last}

More faults: python -m tests.cluster.lab help, docs/lab.md    Into a node: docker exec -it {first.name} bash
The end: make lab-down"""
_ON_NODES = {"kill": 1, "boot": 1, "pause": 1, "unpause": 1, "isolate": 1, "cut": 2, "oneway": 2, "refuse": 2}
_ON_PARTS = ("freeze", "thaw", "crash", "stop", "start", "restart")


async def main(arguments: list[str]) -> None:
    match arguments:
        case ["image"]:
            print(await build_image())
        case ["nodes", *rest] if len(rest) <= 1:
            for node in await up(_count(rest)):
                print(node.name, node.address)
        case ["up", *rest] if len(rest) <= 1:
            await _raise(_count(rest))
        case ["down"]:
            await lower_lab()
        case [fault, *rest]:
            await _fault(await find_lab(), fault, rest)
        case _:
            sys.exit(USAGE)


def _count(arguments: Sequence[str]) -> int:
    count = int(arguments[0]) if arguments and arguments[0].isdecimal() else 3 if not arguments else 0
    if not 1 <= count <= 50:
        sys.exit("N is a number of nodes, 1 to 50")
    return count


async def _raise(count: int) -> None:
    begun = monotonic()
    lab = await raise_lab(count)
    await install(lab)
    folder = FILES / lab.group
    app = folder / "shop.yaml"
    app.write_text(yaml.safe_dump(web("/lab/main/prod/shop", instances=3), sort_keys=False), encoding="utf-8")
    nodes = "\n".join(f"  {node.name}  {node.address}" for node in lab.nodes)
    facts = {"count": count, "seconds": monotonic() - begun, "nodes": nodes, "first": lab.nodes[0], "last": count}
    print(_NEXT.format(**facts, folder=folder, app=app, checkout=CHECKOUT))


async def _fault(lab: Lab, fault: str, arguments: list[str]) -> None:
    """Do one fault. Names of the command line are those of `Faults`, but for three."""
    does: Callable[..., Coroutine[Any, Any, None]]
    name = {"oneway": "cut_one_way", "heal-all": "heal_all"}.get(fault, fault)
    does = getattr(lab.faults, name, lab.faults.heal)
    if _ON_NODES.get(fault) == len(arguments):
        await does(*(_node(lab, text) for text in arguments))
    elif fault == "lose" and len(arguments) == 3 and arguments[2].isdecimal():
        await does(_node(lab, arguments[0]), _node(lab, arguments[1]), int(arguments[2]))
    elif fault in _ON_PARTS and len(arguments) == 2:
        await does(_node(lab, arguments[0]), arguments[1])
    elif fault in ("heal", "heal-all") and not arguments:
        await does()
    else:
        sys.exit(USAGE)


def _node(lab: Lab, number: str) -> Node:
    if not number.isdecimal() or not 1 <= int(number) <= len(lab.nodes):
        raise LabError(f"{number!r} is no node; there are 1 to {len(lab.nodes)}")
    return lab.nodes[int(number) - 1]


if not can_run():
    sys.exit("lab nodes need root, systemd-sysv and busybox-static: scripts/install-packages test")
try:
    asyncio.run(main(sys.argv[1:]))
except LabError as problem:
    sys.exit(f"error: {problem}")
