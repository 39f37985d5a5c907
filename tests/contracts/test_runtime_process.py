"""The contract of runtime drivers, kept by `process` under its own shim."""

from __future__ import annotations

from typing import Any

from gestalt.config import AgentSettings, ProcessSettings
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.spec.schema import AppSpec

from .runtime_contract import RuntimeContract


class TestProcessRuntimeUnderTheShim(RuntimeContract):
    driver = ProcessRuntime

    def app(self, script: str, **sections: Any) -> AppSpec:
        return AppSpec(path="/contract/app", runtime="process", command=("/bin/sh", "-c", script), **sections)

    def adapt(self, settings: AgentSettings) -> AgentSettings:
        return settings.model_copy(update={"process": ProcessSettings(supervisor="shim")})
