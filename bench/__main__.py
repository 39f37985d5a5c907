"""`python -m bench [NAME ...] [options]`: these benchmarks, one after the other; without a name those of one machine (`make bench`)."""

from __future__ import annotations

import subprocess
import sys

ONE_MACHINE = ("store", "appliance", "kills")
CLUSTER = ("failover", "leader", "handovers")

chosen = [word for word in sys.argv[1:] if word in (*ONE_MACHINE, *CLUSTER)]
rest = [word for word in sys.argv[1:] if word not in chosen]
for name in chosen or ONE_MACHINE:
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"bench.{name}", *rest], check=True)
