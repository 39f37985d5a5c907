"""The contract of load balancer drivers, kept by a real HAProxy."""

from __future__ import annotations

from gestalt.config import AgentSettings
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer
from gestalt.plugins.loadbalancer.haproxy_process import HaproxyProcess

from .loadbalancer_contract import LoadBalancerContract


class TestHaproxy(LoadBalancerContract):
    driver = HaproxyLoadBalancer

    async def processes(self, settings: AgentSettings) -> object:
        processes = await HaproxyProcess(settings.run_dir / "haproxy").processes()
        return processes.master, processes.reloads, processes.workers
