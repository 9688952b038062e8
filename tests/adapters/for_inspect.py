"""Run Inspect's own checks of a sandbox on a session; print how each went, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from inspect_ai.util._sandbox import self_check
from inspect_sandbox import StreamerSandbox

SLOW = ("test_exec_timeout_kills_process", "test_exec_timeout_kills_child_processes")
"""They wait for seconds; that nothing outlives its job is tested elsewhere."""


async def main() -> None:
    environments = await StreamerSandbox.sample_init("task", sys.argv[1], {})
    went: dict[str, str] = {}
    try:
        for name, check in vars(self_check).items():
            if name.startswith("test_") and name not in SLOW:
                try:
                    await check(environments["default"])
                    went[name] = ""
                except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                    went[name] = repr(error)
    finally:
        await StreamerSandbox.sample_cleanup("task", None, environments, interrupted=False)
    print(json.dumps(went))  # noqa: T201


asyncio.run(main())
