"""A sandbox backend of LangChain's Deep Agents that is a session of a streamer service.

    with SyncClient("http://127.0.0.1:8080") as client, client.session() as session:
        agent = create_deep_agent(model=..., backend=StreamerBackend(session))
        agent.invoke(...)

Commands begin in the session's workspace. What they leave there and in /tmp stays for the next
one; nothing that they have started does, unless the session has ``keep_processes``.
"""

from __future__ import annotations

import signal
from typing import Any, Final

from deepagents.backends.protocol import (
    FILE_NOT_FOUND,
    INVALID_PATH,
    IS_DIRECTORY,
    PERMISSION_DENIED,
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
)
from deepagents.backends.sandbox import BaseSandbox

import streamer
from streamer.client import SyncSession
from streamer.events import Complete, Error, Output

__all__ = ["StreamerBackend"]

HERE: Final = ".deepagents"
"""A folder of the workspace for what goes in and comes out."""
MAX_OUTPUT_CHARS: Final = 100_000
TIMED_OUT: Final = 124

WRITE: Final = """\
if [ -d "$1" ]; then exit 67; fi
mkdir -p -- "$(dirname -- "$1")" 2>/dev/null || exit 68
if [ -e "$1" ] && [ ! -w "$1" ] || [ ! -w "$(dirname -- "$1")" ]; then exit 68; fi
exec cat .deepagents/file >"$1"
"""
READ: Final = """\
if [ ! -e "$1" ]; then exit 66; fi
if [ -d "$1" ]; then exit 67; fi
if [ ! -r "$1" ]; then exit 68; fi
exec cat -- "$1" >.deepagents/file
"""
ERRORS: Final[dict[int, str]] = {66: FILE_NOT_FOUND, 67: IS_DIRECTORY, 68: PERMISSION_DENIED}


class StreamerBackend(BaseSandbox):
    """A session, as Deep Agents use it. `timeout_s` is for commands without a timeout."""

    def __init__(self, session: SyncSession, *, timeout_s: float = 60.0) -> None:
        self._session = session
        self._timeout_s = timeout_s

    @property
    def id(self) -> str:
        return self._session.id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a command with bash; a timeout of 0 is that of the session."""
        timeout_s = self._timeout_s if timeout is None else timeout
        # As an argument: in a file it would be found by those that search in files.
        return self._bash('eval "$1"', command, timeout_s=timeout_s)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        return [FileUploadResponse(path, self._upload(path, content)) for path, content in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        return [self._download(path) for path in paths]

    def _upload(self, path: str, content: bytes) -> str | None:
        """Write a file, and return what was in the way."""
        if not path.startswith("/"):
            return str(INVALID_PATH)
        self._session.write(f"{HERE}/file", content)
        return _error(self._bash(WRITE, path))

    def _download(self, path: str) -> FileDownloadResponse:
        if not path.startswith("/"):
            return FileDownloadResponse(path, None, INVALID_PATH)
        if error := _error(self._bash(READ, path)):
            return FileDownloadResponse(path, None, error)
        return FileDownloadResponse(path, self._session.read(f"{HERE}/file"), None)

    def _bash(self, script: str, *args: str, timeout_s: float = 0) -> ExecuteResponse:
        limits: dict[str, Any] = {"wall_time_s": timeout_s} if timeout_s else {}
        job = streamer.JobSpec(
            language="bash",
            files=(streamer.SourceFile(f"{HERE}/run.sh", script.encode()),),
            entry=f"{HERE}/run.sh",
            args=args,
            limits=limits,
        )
        said: list[str] = []
        room = MAX_OUTPUT_CHARS
        truncated = False
        with self._session.run(job, cancel_on_close=True) as run:
            for event in run:
                match event.data:
                    case Output(data=data):
                        said.append(data[:room])
                        truncated |= len(data) > room
                        room -= len(said[-1])
                    case Error(message=message):
                        return ExecuteResponse(f"The sandbox failed: {message}", None)
                    case Complete(reason="wall_time"):
                        said.append(f"\nThe command was ended after {timeout_s:g} s\n")
                        return ExecuteResponse("".join(said), TIMED_OUT, truncated)
                    case Complete() as end:
                        truncated |= end.output_truncated or end.reason == "output_limit"
                        if end.reason not in ("exited", "signaled"):
                            said.append(f"\nThe command was ended: {end.reason}\n")
                        return ExecuteResponse("".join(said), _exit_code(end), truncated)
        return ExecuteResponse("The service has forgotten the command", None)


def _exit_code(end: Complete) -> int:
    if end.exit_code is not None:
        return end.exit_code
    return 128 + (signal.Signals[end.signal] if end.signal else signal.SIGKILL)


def _error(response: ExecuteResponse) -> str | None:
    """Return why a file could not be written or read, in the words of Deep Agents."""
    if response.exit_code == 0:
        return None
    return ERRORS.get(response.exit_code or 0, response.output or "the sandbox failed")
