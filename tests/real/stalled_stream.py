"""A shell over gestaltctl while the network swallows every packet for some seconds; to be run in a network of its own.

Prints as JSON what came back of what was typed meanwhile, and the exit code if gestaltctl gave up.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.real.ctl_server import PROGRAM, CtlServer

PATIENCE = 20.0
_TABLE = "gestalt_stall"
_SWALLOW = f"""
table inet {_TABLE} {{
  chain swallow {{
    type filter hook input priority 0;
    tcp dport %(port)d drop
    tcp sport %(port)d drop
  }}
}}
"""


def main() -> None:
    stall = float(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        server = CtlServer(Path(folder))
        with subprocess.Popen([*PROGRAM, "exec", "-i", "web", "cat"], stdin=-1, stdout=-1, stderr=-1, env=server.environment()) as shell:
            type_in(shell, b"before")
            assert heard(shell) == "<before>"
            subprocess.run(["nft", "-f", "-"], input=_SWALLOW % {"port": server.port}, text=True, check=True)
            type_in(shell, b"meanwhile")
            early = heard(shell, stall)
            subprocess.run(["nft", "delete", "table", "inet", _TABLE], check=True)
            answer = early or heard(shell)
            code = None if answer else shell.wait(PATIENCE)
            shell.kill()
        server.close()
    print(json.dumps({"answer": answer, "code": code}), flush=True)


def type_in(shell: subprocess.Popen[bytes], what: bytes) -> None:
    assert shell.stdin is not None
    shell.stdin.write(what)
    shell.stdin.flush()


def heard(shell: subprocess.Popen[bytes], limit: float = PATIENCE) -> str:
    """Return what it prints next; nothing if it ends, or prints nothing within the limit."""
    assert shell.stdout is not None
    ready, _, _ = select.select([shell.stdout], [], [], limit)
    return shell.stdout.read1(1000).decode() if ready else ""  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
