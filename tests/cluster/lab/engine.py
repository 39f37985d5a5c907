"""A Docker Engine in every node, with a small web image made from this machine's busybox: nothing is pulled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.real.docker_lab import busybox_tree

from .nodes import Node

WEB_IMAGE = "gestalt-lab-web:1"
"""Serves /index.html, and /cgi-bin/who: which instance, attempt and version answered, on which node."""

_WHO = """#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s %s %s' "$GESTALT_INSTANCE" "$GESTALT_ATTEMPT" "$GESTALT_VERSION" "$GESTALT_NODE"
"""
_COMMAND = 'CMD ["/bin/httpd","-f","-p","80","-h","/www"]'


async def start_engines(nodes: Sequence[Node]) -> None:
    """Have Docker run in all nodes, now and after each boot, with the web image in it."""
    tree = await asyncio.to_thread(lambda: busybox_tree(**{"www/cgi-bin/who": _WHO}))
    await asyncio.gather(*(_start(node, tree) for node in nodes))


async def _start(node: Node, tree: bytes) -> None:
    await node.do("systemctl", "--quiet", "enable", "--now", "docker")
    await node.do("docker", "import", "--change", _COMMAND, "-", WEB_IMAGE, stdin=tree)
