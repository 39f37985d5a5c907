"""An agent's worth of the process runtime, to be killed: launches scripts and waits.

Arguments: the settings as JSON, then `instance=script` for each launch. Prints `go` before the first launch and `done` after the last.
"""

from __future__ import annotations

import asyncio
import sys

from gestalt.config import AgentSettings
from gestalt.plugin.runtime import AttemptKey, Launch
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.spec.schema import AppSpec


async def main() -> None:
    runtime = ProcessRuntime.create(AgentSettings.model_validate_json(sys.argv[1]))
    await runtime.start()
    print("go", flush=True)
    for argument in sys.argv[2:]:
        instance, _, script = argument.partition("=")
        spec = AppSpec(path="/lab/tests/local/app", runtime="process", command=("/bin/sh", "-c", script))
        await runtime.launch(Launch(AttemptKey(instance, 1), spec.path, 1, "t-1", spec, ()))
    print("done", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
