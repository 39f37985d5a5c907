"""What holds for every test: how fast it is says nothing, for machines are noisy. Speed is measured in `bench`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("gestalt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gestalt")
