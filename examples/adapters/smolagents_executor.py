"""An executor of smolagents that runs an agent's code in a sandbox of a streamer service.

    with SyncClient("http://127.0.0.1:8080") as client:
        executor = StreamerExecutor(client, AgentLogger())
        with CodeAgent(tools=[...], model=..., executor=executor) as agent:
            agent.run("...")

All steps of an agent run in one Python process, so they share their variables: it is one job, which
gets each step by its standard input, and writes all to standard output. It ends with the agent, or
at the wall time limit (`limits`; the service allows at most ``limits.max``). Packages are those of
an environment that the operator has built (`environment`): nothing is installed. An agent's final
answer needs numpy and pillow there, which smolagents imports with it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final

from smolagents import AgentError, AgentLogger
from smolagents.local_python_executor import CodeOutput
from smolagents.remote_executors import RemotePythonExecutor

import streamer
from streamer import Event, SyncClient
from streamer.events import Complete, Error, Output

__all__ = ["StreamerExecutor"]

PROGRAM: Final = """\
import ast, json, os, sys, traceback

steps = os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(1, 2)
names = {"__name__": "__main__"}
for step in map(json.loads, steps):
    said = {}
    try:
        tree = ast.parse(step["code"])
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<agent>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<agent>", "eval"), names)
            said["output"] = None if value is None else str(value)
    except BaseException as error:
        if type(error).__name__ == "FinalAnswerException":
            said["final"] = error.value
        else:
            said["error"] = traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    print(step["end"] + json.dumps(said), flush=True)
"""
"""Runs each step, and then says how it went in a line that begins as the step asks for."""


class StreamerExecutor(RemotePythonExecutor):
    """A Python process in a sandbox that runs the steps of one agent.

    `limits` are those of a job, `environment` is one of the service.
    """

    def __init__(
        self,
        client: SyncClient,
        logger: AgentLogger,
        *,
        limits: Mapping[str, float | str] | None = None,
        environment: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__([], logger, allow_pickle)
        self._client = client
        self._job_id = client.submit(
            streamer.JobSpec(
                language="python",
                code=PROGRAM,
                interactive=True,
                limits=limits or {},
                environment=environment,
            )
        )
        self._events: Iterator[Event] = iter(client.events(self._job_id))

    def run_code_raise_errors(self, code: str) -> CodeOutput:
        end = f"<{secrets.token_hex(16)}>"
        try:
            self._client.write(self._job_id, json.dumps({"code": code, "end": end}) + "\n")
        except streamer.ServiceProblem as problem:
            if problem.code != "conflict":  # else it has ended, and its events say why
                raise
        logs, said = self._until(end)
        if "error" in said:
            raise AgentError(f"{logs}\n{said['error']}", self.logger)
        if "final" in said:
            answer = self._deserialize_final_answer(said["final"], self.allow_pickle)
            return CodeOutput(output=answer, logs=logs, is_final_answer=True)
        return CodeOutput(output=said.get("output"), logs=logs, is_final_answer=False)

    def install_packages(self, additional_imports: list[str]) -> list[str]:
        """Install nothing: what is not in the environment cannot be imported, which says so."""
        return additional_imports

    def cleanup(self) -> None:
        """End the process, and wait until it has ended."""
        self._client.cancel(self._job_id)
        self._client.wait(self._job_id)

    def _until(self, end: str) -> tuple[str, dict[str, Any]]:
        """Return what a step has written, and how it went. Raises `AgentError`."""
        logs = ""
        for event in self._events:
            match event.data:
                case Output(data=data):
                    logs += data
                    before, found, after = logs.partition(end)
                    if found and after.endswith("\n"):
                        return before, json.loads(after)
                case Complete(reason=reason):
                    why = f"{logs}\nThe program of the agent has ended ({reason})"
                    raise AgentError(why, self.logger)
                case Error(message=message):
                    raise AgentError(f"{logs}\nThe sandbox failed: {message}", self.logger)
        raise AgentError("The program of the agent has ended before", self.logger)
