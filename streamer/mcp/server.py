"""The MCP server: which tools there are, and how a call becomes an answer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import BaseModel

import streamer
from streamer.errors import StreamerError
from streamer.mcp import answers, arguments
from streamer.mcp.problems import FAILED, told
from streamer.mcp.tools import Tools
from streamer.mcp.workspaces import Caller

__all__ = ["CALLER", "make_server"]

log: Final = logging.getLogger(__name__)

CALLER: Final = "streamer.caller"
"""Where the HTTP transport says in its scope who calls."""
GRACE_S: Final = 20.0
"""Over HTTP a call that was given up and a lost connection look alike (protocol of 2026-07-28)."""
MAX_CALLS: Final = 200
MAX_CALLS_OF_ONE: Final = 50
"""How many calls are answered at once, and how many of one caller."""

Context = ServerRequestContext[Any, Any]

INSTRUCTIONS: Final = """\
Runs programs in a sandbox and keeps their files in workspaces between calls.
run starts a program and returns its output, or after wait_s what there is so far, with a job_id.
With the job_id, wait goes on where an answer ended (also from another connection), sends input to
a program that asks for it, and reads output that was left out; stop ends it.
write_file, read_file and list_files are for the files of a workspace, while no program runs in
it."""

RUN: Final = """\
Run a program in a sandbox and return its output, exit code and why it ended.
Programs see the files of the workspace, and what they write there is still there in later calls.
They have no network unless the operator allows it. If the program still runs after wait_s seconds,
the answer has a job_id and the output so far: call wait for the rest. For a program that asks for
input use interactive, and answer with wait(input=...)."""
WAIT: Final = """\
Wait for a program that run has started, and return its output from an event number on.
Use it when run returned before the program's end, after a lost connection, to send input to an
interactive program, or to read output that an answer has left out."""
STOP: Final = """\
Stop a program and everything it has started, and return its output and verdict. The workspace and
its files stay."""
READ: Final = """\
Read a file of a workspace: text as it is, anything else as base64. Long files come in parts."""
WRITE: Final = """\
Write a file into a workspace, with the folders of its path; a file that is there is replaced."""
LIST: Final = "List the files of a workspace, with their sizes."

Reads: Final = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
Writes: Final = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=True, open_world_hint=False
)
Listed = tuple[str, str, type[BaseModel], type[BaseModel], types.ToolAnnotations]
LISTED: Final[tuple[Listed, ...]] = (
    ("run", RUN, arguments.Run, answers.Job, Writes),
    ("wait", WAIT, arguments.Wait, answers.Job, Writes),
    ("stop", STOP, arguments.Stop, answers.Job, Writes),
    ("read_file", READ, arguments.ReadFile, answers.FileContent, Reads),
    ("write_file", WRITE, arguments.WriteFile, answers.FileWritten, Writes),
    ("list_files", LIST, arguments.ListFiles, answers.FileList, Reads),
)

Answer = answers.Job | answers.FileContent | answers.FileWritten | answers.FileList


def make_server(tools: Tools, caller: Caller) -> Server[Any]:
    """Return a server with the tools; `caller` is who calls if the transport does not say."""
    calls: Counter[str] = Counter()

    async def list_tools(
        context: Context, _: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=_described(await _languages(tools, _who(context))))

    async def call_tool(
        context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        who = _who(context)
        if calls.total() >= MAX_CALLS or calls[who.name] >= MAX_CALLS_OF_ONE:
            return _failed("too many calls are being answered: wait for one of them")
        calls[who.name] += 1
        try:
            answer = await _done(tools, who, context, params)
        except Exception as error:
            text = told(error)
            if text is None:
                log.exception("the tool %r has failed", params.name)
            return _failed(text or FAILED)
        finally:
            calls[who.name] -= 1
            if not calls[who.name]:
                del calls[who.name]
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=answer.text())],
            structured_content=answer.model_dump(mode="json"),
            is_error=isinstance(answer, answers.Job)
            and answer.verdict is not None
            and answer.verdict.reason == "error",
        )

    def _who(context: Context) -> Caller:
        scope = getattr(context.request, "scope", {})
        found = scope.get(CALLER)
        return found if isinstance(found, Caller) else caller

    return Server(
        "streamer",
        version=streamer.__version__,
        title="streamer",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _done(
    tools: Tools, caller: Caller, context: Context, params: types.CallToolRequestParams
) -> Answer:
    async def progress(seconds: float, message: str) -> None:
        await context.session.report_progress(round(seconds, 3), None, message)

    given = params.arguments or {}
    calls: dict[str, Callable[[], Awaitable[Answer]]] = {
        "run": lambda: tools.run(
            caller, arguments.Run.model_validate(given), progress, _grace_s(context)
        ),
        "wait": lambda: tools.wait(caller, arguments.Wait.model_validate(given), progress),
        "stop": lambda: tools.stop(caller, arguments.Stop.model_validate(given), progress),
        "read_file": lambda: tools.read_file(caller, arguments.ReadFile.model_validate(given)),
        "write_file": lambda: tools.write_file(caller, arguments.WriteFile.model_validate(given)),
        "list_files": lambda: tools.list_files(caller, arguments.ListFiles.model_validate(given)),
    }
    call = calls.get(params.name)
    if call is None:
        raise StreamerError(f"there is no tool {params.name!r}: use {', '.join(calls)}")
    return await call()


def _grace_s(context: Context) -> float:
    """Return how long a job whose call was given up may still be asked for."""
    over_http = context.request is not None
    tells = context.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
    return GRACE_S if over_http and not tells else 0.0


async def _languages(tools: Tools, caller: Caller) -> str:
    try:
        return f"\nLanguages: {', '.join(await tools.languages(caller))}."
    except Exception as error:  # noqa: BLE001 - the tools are there all the same
        return f"\nWhich languages there are is not known now: {told(error) or FAILED}."


def _described(languages: str) -> list[types.Tool]:
    return [
        types.Tool(
            name=name,
            description=text + languages if name == "run" else text,
            input_schema=given.model_json_schema(),
            output_schema=answer.model_json_schema(mode="serialization"),
            annotations=annotations,
        )
        for name, text, given, answer, annotations in LISTED
    ]


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)
