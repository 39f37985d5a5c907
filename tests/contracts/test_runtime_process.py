"""The contract of runtime drivers, kept by `process` under its own shim, and under systemd where that is PID 1.

`tests/real/test_process_systemd.py` runs the second on a lab node.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from gestalt.config import AgentSettings, ProcessSettings
from gestalt.plugin.runtime import RuntimeDriver
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.plugins.runtime.process_systemd import systemd_runs
from gestalt.spec.schema import AppSpec

from ..real.process_lab import sweep_leftovers
from .runtime_contract import RuntimeContract


class TestProcessRuntimeUnderTheShim(RuntimeContract):
    driver: ClassVar[type[RuntimeDriver]] = ProcessRuntime
    supervisor: ClassVar[Literal["shim", "systemd"]] = "shim"

    def app(self, script: str, **sections: Any) -> AppSpec:
        return AppSpec(path="/contract/suite/test/app", runtime="process", command=("/bin/sh", "-c", script), **sections)

    def adapt(self, settings: AgentSettings) -> AgentSettings:
        sweep_leftovers()
        return settings.model_copy(update={"process": ProcessSettings(supervisor=self.supervisor)})


class TestProcessRuntimeUnderSystemd(TestProcessRuntimeUnderTheShim):
    __test__ = systemd_runs()
    supervisor: ClassVar[Literal["shim", "systemd"]] = "systemd"
