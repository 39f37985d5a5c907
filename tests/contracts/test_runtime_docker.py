"""The Docker driver honours the contract of runtime drivers."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from gestalt.plugin.runtime import RuntimeDriver
from gestalt.plugins.runtime.docker import DockerRuntime
from gestalt.spec.schema import AppSpec

from ..real.docker_lab import IMAGE, make_image
from .runtime_contract import RuntimeContract


@pytest.fixture(scope="module", autouse=True)
def image() -> str:
    return make_image()


@pytest.mark.real
class TestDockerRuntime(RuntimeContract):
    driver: ClassVar[type[RuntimeDriver]] = DockerRuntime

    def app(self, script: str, **sections: Any) -> AppSpec:
        return AppSpec(path="/contract/suite/test/app", image=IMAGE, command=("/bin/sh", "-c", script), **sections)
