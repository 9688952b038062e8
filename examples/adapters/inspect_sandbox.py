"""A sandbox of Inspect (inspect_ai) that is a session of a streamer service.

Import this module where your task is, and name the sandbox: ``Task(..., sandbox="streamer")``. The
service is that of ``STREAMER_URL`` (by default http://127.0.0.1:8080) and ``STREAMER_TOKEN``; an
address in the task's configuration, ``sandbox=("streamer", "https://...")``, comes first.

Commands run one after another. Nothing that one has started is left when the next one begins, so
Inspect's tools that keep a process in the sandbox (``exec_remote``) do not work, and there is one
user only.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)

import streamer
from streamer.client import RemoteSession
from streamer.events import Complete, Error, Output

__all__ = ["StreamerSandbox"]

HERE: Final = ".inspect"
"""A folder of the workspace for what goes in and comes out."""

RUN: Final = """\
mapfile -d '' -t command <.inspect/command
exec <"$2"
cd -- "$1" || exit 1
exec "${command[@]}"
"""
WRITE: Final = """\
if [ -d "$1" ]; then exit 67; fi
if [ -e "$1" ] && [ ! -w "$1" ]; then exit 68; fi
mkdir -p -- "$(dirname -- "$1")" && exec cat "$2" >"$1"
"""
READ: Final = """\
if [ ! -e "$1" ]; then exit 66; fi
if [ -d "$1" ]; then exit 67; fi
if [ ! -r "$1" ]; then exit 68; fi
size=$(stat -L -c %s -- "$1") && [ "$size" -le "$3" ] || exit 69
exec cat -- "$1" >"$2"
"""
FILE_ERRORS: Final = {
    66: (FileNotFoundError, "no such file"),
    67: (IsADirectoryError, "it is a directory"),
    68: (PermissionError, "permission denied"),
}
TOO_LARGE: Final = 69
LIMITS: Final[Mapping[str, float | str]] = {
    "wall_time_s": 600,
    "cpu_time_s": 600,
    "memory_bytes": "1GiB",
    "disk_bytes": "512MiB",
    "file_bytes": "256MiB",
    "output_bytes": "64MiB",
}
"""What one command may use: at most ``limits.max`` of the service."""


@sandboxenv(name="streamer")
class StreamerSandbox(SandboxEnvironment):
    """One session of the service, for one sample."""

    def __init__(self, session: RemoteSession, opened: AsyncExitStack) -> None:
        super().__init__()
        self._session = session
        self._opened = opened

    @classmethod
    async def sample_init(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        metadata: dict[str, str],
    ) -> dict[str, SandboxEnvironment]:
        url = config if isinstance(config, str) else os.environ.get("STREAMER_URL", "")
        async with AsyncExitStack() as opening:
            client = await opening.enter_async_context(
                streamer.Client(
                    url or "http://127.0.0.1:8080", token=os.environ.get("STREAMER_TOKEN")
                )
            )
            session = await opening.enter_async_context(client.session(limits=LIMITS))
            return {"default": cls(session, opening.pop_all())}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        for environment in environments.values():
            await environment.as_type(StreamerSandbox).end()

    async def end(self) -> None:
        """End the session, and all that is in it."""
        await self._opened.aclose()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,  # noqa: A002 - Inspect's signature
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,  # noqa: ASYNC109
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        if user is not None:
            raise SandboxUserUnsupportedError(f"there is one user, and not {user!r}")
        source = "/dev/null"
        if input is not None:
            source = f"{HERE}/input"
            await self._session.write(source, input)
        limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
        command = streamer.SourceFile(f"{HERE}/command", "".join(f"{w}\0" for w in cmd).encode())
        result = await self._bash(RUN, [cwd or ".", source], [command], env, timeout)
        if any(len(text.encode()) > limit for text in (result.stdout, result.stderr)):
            said = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
            raise OutputLimitExceededError(said, result.stdout[:limit])
        if result.returncode == 126 and "permission denied" in result.stderr.lower():
            raise PermissionError(result.stderr)
        return result

    async def write_file(self, file: str, contents: str | bytes) -> None:
        await self._session.write(f"{HERE}/input", contents)
        _check(file, await self._bash(WRITE, [file, f"{HERE}/input"]))

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        _check(file, await self._bash(READ, [file, f"{HERE}/output", str(limit)]))
        content = await self._session.read(f"{HERE}/output")
        return str(content, "utf-8") if text else bytes(content)

    async def _bash(
        self,
        script: str,
        args: list[str],
        files: Sequence[streamer.SourceFile] = (),
        env: dict[str, str] | None = None,
        wall_time_s: float | None = None,
    ) -> ExecResult[str]:
        """Run a script in the session. Raises TimeoutError, `OutputLimitExceededError`."""
        job = streamer.JobSpec(
            language="bash",
            files=(streamer.SourceFile(f"{HERE}/run.sh", script.encode()), *files),
            entry=f"{HERE}/run.sh",
            args=tuple(args),
            env=env or {},
            limits={} if wall_time_s is None else {"wall_time_s": wall_time_s},
        )
        said: dict[str, list[str]] = {"stdout": [], "stderr": []}
        async with self._session.run(job, cancel_on_close=True) as run:
            async for event in run:
                match event.data:
                    case Output(stream=stream, data=data):
                        said[stream].append(data)
                    case Error(message=message):
                        raise RuntimeError(f"the service could not run it: {message}")
                    case Complete(reason="wall_time"):
                        raise TimeoutError(f"the command has run for {wall_time_s} s")
                    case Complete(reason="output_limit"):
                        limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
                        raise OutputLimitExceededError(limit, "".join(said["stdout"]))
                    case Complete() as end:
                        code = _exit_code(end)
                        texts = ("".join(said[name]) for name in ("stdout", "stderr"))
                        return ExecResult(code == 0, code, *texts)
        raise RuntimeError("the service has forgotten the command")


def _exit_code(end: Complete) -> int:
    if end.exit_code is not None:
        return end.exit_code
    return 128 + (signal.Signals[end.signal] if end.signal else signal.SIGKILL)


def _check(file: str, result: ExecResult[str]) -> None:
    """Raise what Inspect expects when a file cannot be written or read."""
    if result.returncode == TOO_LARGE:
        raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
    if result.returncode in FILE_ERRORS:
        kind, why = FILE_ERRORS[result.returncode]
        raise kind(f"{file}: {why}")
    if not result.success:
        raise OSError(f"{file}: {result.stderr}")
