"""`make bench`: every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("store", "appliance", "kills")

for name in BENCHMARKS:
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"bench.{name}", *sys.argv[1:]], check=True)
