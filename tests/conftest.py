"""What holds for every test: how fast it is says nothing, for machines are noisy. Speed is measured in `bench`."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what it has in the background so, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("gestalt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gestalt")
