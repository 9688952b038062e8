"""Send requests with SandboxFusion's own client."""

from __future__ import annotations

import asyncio
import sys

import sandbox_fusion
from sandbox_fusion import RunCodeRequest, RunStatus, SummaryMapping

MAPPING = SummaryMapping(
    Success="success",
    Failed="failed",
    CompileFailed="compile failed",
    CompileTimeout="compile timeout",
    RunFailed="run failed",
    RunTimeout="run timeout",
)


def summary(**request: object) -> str:
    result = sandbox_fusion.run_code(RunCodeRequest(**request), max_attempts=1)
    return str(sandbox_fusion.summary_run_code_result(result, MAPPING))


sandbox_fusion.set_endpoint(f"{sys.argv[1]}/sandboxfusion")
assert summary(language="python", code="print(1)") == "success"
assert summary(language="python", code="1 / 0") == "run failed"
assert summary(language="python", code="while True: pass", run_timeout=0.5) == "run timeout"
assert summary(language="cpp", code="int main() {") == "compile failed"
assert summary(language="cpp", code="int main() {}") == "success"

requests = [RunCodeRequest(language="python", code=f"print({n})") for n in range(5)]


async def together() -> None:
    results = await asyncio.gather(*map(sandbox_fusion.run_code_async, requests))
    assert [result.status for result in results] == [RunStatus.Success] * len(requests)
    assert [result.run_result.stdout for result in results] == [f"{n}\n" for n in range(5)]


asyncio.run(together())
