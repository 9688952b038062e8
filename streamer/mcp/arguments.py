"""The arguments of each tool; their JSON schemas are what a model reads."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "MAX_WAIT_S",
    "ListFiles",
    "ReadFile",
    "Run",
    "Stop",
    "Wait",
    "WriteFile",
]

MAX_WAIT_S: Final = 300.0
DEFAULT_WAIT_S: Final = 30.0
"""Many clients give a call up after a minute."""
DEFAULT_CHARS: Final = 32_000
MAX_CHARS: Final = 200_000
MAX_TEXT: Final = 4 * 1024 * 1024
MAX_READ_BYTES: Final = 200_000

JobId = Annotated[
    str,
    Field(pattern="^[A-Za-z0-9_-]{1,64}$", description="The job_id that run has returned."),
]
Workspace = Annotated[
    str,
    Field(
        pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description=(
            "A name of your choice for a folder of files that stays between calls. Calls with the "
            "same name share its files, and their programs run one after another; with different "
            "names they see nothing of each other."
        ),
    ),
]
Path = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        description="Relative to the workspace, such as src/data.csv.",
    ),
]
WaitS = Annotated[
    float,
    Field(
        ge=0,
        le=MAX_WAIT_S,
        description=(
            "How many seconds this call waits. If the program still runs then, it goes on, and "
            "the answer has what it has written so far: call wait for the rest."
        ),
    ),
]
Until = Annotated[
    Literal["end", "output"],
    Field(
        description=(
            "end: wait until the program has ended. output: return as soon as it has written "
            "something and then paused, as a program that asks for input does."
        )
    ),
]
MaxChars = Annotated[
    int,
    Field(
        ge=1000,
        le=MAX_CHARS,
        description=(
            "The most output, in characters, in this answer. Of more you get the beginning and "
            "the end, and are told how to read what is between."
        ),
    ),
]


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Run(Arguments):
    language: str = Field(
        min_length=1, max_length=64, description="The language of the program, such as python."
    )
    code: str | None = Field(
        default=None,
        max_length=MAX_TEXT,
        description=(
            "The program's text. It is written into the workspace as the language's main file "
            "(main.py, main.c, ...). Leave it out to run a file that is there: see entry."
        ),
    )
    entry: Path | None = Field(
        default=None, description="The file to run; by default the language's main file."
    )
    args: list[str] = Field(default=[], max_length=1000, description="Command-line arguments.")
    env: dict[str, str] = Field(default={}, max_length=200, description="Environment variables.")
    stdin: str | None = Field(
        default=None,
        max_length=MAX_TEXT,
        description="All of the program's standard input, up front.",
    )
    interactive: bool = Field(
        default=False,
        description=(
            "Keep standard input open: answer the program with wait(input=...). Otherwise it "
            "reads stdin, or nothing."
        ),
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Kill the program after so many seconds; at most what the service allows.",
    )
    memory_mib: int | None = Field(
        default=None, gt=0, description="Its memory in MiB; at most what the service allows."
    )
    workspace: Workspace = "default"
    wait_s: WaitS = DEFAULT_WAIT_S
    until: Until | None = Field(
        default=None, description="end, or output; by default output if interactive, else end."
    )
    max_chars: MaxChars = DEFAULT_CHARS


class Wait(Arguments):
    job_id: JobId
    after: int | None = Field(
        default=None,
        ge=0,
        description=(
            "Return what came after this event number: the last_event of an earlier answer, or "
            "the number in its note on omitted output. By default all from the beginning."
        ),
    )
    input: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TEXT,
        description=(
            "Send this to the program's standard input first. End a line with \\n. Only for a job "
            "that was run with interactive."
        ),
    )
    close_input: bool = Field(
        default=False, description="Then end its standard input, for a program that reads to EOF."
    )
    wait_s: WaitS = DEFAULT_WAIT_S
    until: Until | None = Field(
        default=None, description="end, or output; by default output if there is input, else end."
    )
    max_chars: MaxChars = DEFAULT_CHARS


class Stop(Arguments):
    job_id: JobId


class ReadFile(Arguments):
    path: Path
    workspace: Workspace = "default"
    offset: int = Field(default=0, ge=0, description="The first byte to read.")
    max_bytes: int = Field(
        default=DEFAULT_CHARS, ge=1, le=MAX_READ_BYTES, description="How many bytes to read."
    )


class WriteFile(Arguments):
    path: Path
    content: str = Field(max_length=MAX_TEXT, description="All of the file's new content.")
    encoding: Literal["utf-8", "base64"] = Field(
        default="utf-8", description="base64 if content is base64, for a file that is not text."
    )
    executable: bool = Field(default=False, description="Whether it may be run by its name.")
    workspace: Workspace = "default"


class ListFiles(Arguments):
    workspace: Workspace = "default"
