"""`python -m tests.cluster.lab image | up [N] | down`."""

from __future__ import annotations

import asyncio
import sys

from .nodes import build_image, down, up

USAGE = "usage: python -m tests.cluster.lab image | up [N] | down"


async def main(arguments: list[str]) -> None:
    match arguments:
        case ["image"]:
            print(await build_image())
        case ["up", *rest] if len(rest) <= 1:
            for node in await up(int(rest[0]) if rest else 1):
                print(node.name)
        case ["down"]:
            await down()
        case _:
            sys.exit(USAGE)


asyncio.run(main(sys.argv[1:]))
