"""The operations that submit, show, list, cancel and signal jobs, and send them input."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from streamer.web import answers, parameters, wire
from streamer.web.operations.operation import Body, Header, Operation, Parameter, Reply
from streamer.web.operations.shared import (
    FLAG,
    JOB_ID,
    LAST_EVENT_ID,
    LOCATION,
    REPLAYED,
    STATS,
    STREAM_HEADERS,
    TEXT,
)

__all__ = [
    "CANCEL",
    "EXECUTE",
    "EXECUTE_BATCH",
    "LIST",
    "MAX_LIST",
    "RESIZE",
    "SHOW",
    "SIGNAL",
    "WRITE",
]

MAX_LIST: Final = 200

OF_A_JOB: Final = (
    *("showJob", "cancelJob", "followJob", "writeInput", "sendSignal", "resizeTerminal"),
    *("readOutput", "readRecording", "listReaders", "followJobs", "listFiles", "readFile"),
    "createGrant",
)

TRACEPARENT: Final = Parameter(
    "traceparent",
    "The trace that the job belongs to (W3C Trace Context). One that is invalid is left out.",
    {**TEXT, "examples": ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]},
    place="header",
)

EXECUTE: Final = Operation(
    id="execute",
    method="POST",
    path="/api/execute",
    tag="jobs",
    text="Submit a job. The answer comes at once and has the job's links; with `Accept: "
    "text/event-stream` it is the stream of the job's events, and with `Prefer: wait=N` the job's "
    "document, if it is over within N seconds. A body is parsed as JSON whatever its "
    "`Content-Type`, and may be compressed (`Content-Encoding`).",
    parameters=(
        Parameter(
            "Prefer",
            f"`wait=N`: wait up to N seconds for the result, at most {parameters.MAX_WAIT_S:g}. "
            "Other preferences are ignored.",
            {**TEXT, "examples": ["wait=10"]},
            place="header",
        ),
        Parameter(
            "Idempotency-Key",
            "A repeated request with the same key and the same body gets the first job, with its "
            "present state; with another body it is a conflict. A key is remembered as long as its "
            "job, and at least for `queue.idempotency_s`.",
            {**TEXT, "minLength": 1, "maxLength": parameters.MAX_KEY_CHARS},
            place="header",
        ),
        TRACEPARENT,
        LAST_EVENT_ID,
        STATS,
    ),
    body=Body(
        "The job.",
        json=wire._JobRequest,  # noqa: SLF001 - its name is promised
        examples={
            "a program": {"language": "python", "code": "print('hello')"},
            "files, input and limits": {
                "language": "python",
                "files": [{"name": "main.py", "content": "print(input())"}],
                "stdin": "hello\n",
                "limits": {"wallTimeS": 5, "memoryBytes": "100MiB"},
            },
        },
    ),
    replies=(
        Reply(
            200,
            "With `Accept: text/event-stream` the events; with `Prefer: wait=N` the job, which is "
            "over.",
            json=answers.Job,
            media=("text/event-stream",),
            headers=(
                JOB_ID,
                Header("Location", "The job's document; not with a stream.", TEXT, always=False),
                Header(
                    "Preference-Applied",
                    "With `Prefer`: how long it would have waited.",
                    {**TEXT, "examples": ["wait=10"]},
                    always=False,
                ),
                REPLAYED,
                *(replace(header, always=False) for header in STREAM_HEADERS),
            ),
        ),
        Reply(
            202,
            "The job is accepted.",
            json=answers.Accepted,
            headers=(LOCATION, JOB_ID, REPLAYED),
            links=OF_A_JOB,
        ),
        Reply(
            204,
            "A repeated request for the stream of a job that is over, and all of whose events the "
            "client has.",
            headers=(JOB_ID, REPLAYED),
        ),
    ),
    codes=(
        *("invalid_json", "unknown_language", "unknown_project", "not_found", "conflict", "gone"),
        *("queue_full", "sandbox_unavailable", "shutting_down"),
    ),
)

EXECUTE_BATCH: Final = Operation(
    id="executeBatch",
    method="POST",
    path="/api/execute/batch",
    tag="jobs",
    text="Submit several jobs at once. Each is accepted or refused as if it came alone, in their "
    "order; one that is refused does not refuse the others.",
    parameters=(
        Parameter(
            "Idempotency-Key",
            "Each job has its own key, made of this one and its place in the array: a repeated "
            "request gets the jobs that were accepted before, and submits those that were refused.",
            {**TEXT, "minLength": 1, "maxLength": parameters.MAX_KEY_CHARS},
            place="header",
        ),
        TRACEPARENT,
    ),
    body=Body(
        "The jobs.",
        json=wire._JobRequest,  # noqa: SLF001 - as above
        most=wire.MAX_BATCH,
        examples={
            "two programs": [
                {"language": "python", "code": "print('hello')"},
                {"language": "bash", "code": "echo hello"},
            ],
        },
    ),
    replies=(
        Reply(
            200,
            "What came of each job, in their order: that it is accepted, or why it is refused.",
            each=(answers.Accepted, answers.Problem),
            headers=(
                Header(
                    "Retry-After",
                    "Only if jobs were refused for lack of capacity: after how many seconds to "
                    "try again.",
                    {"type": "integer", "minimum": 1},
                    always=False,
                ),
            ),
        ),
    ),
    codes=("invalid_json",),
)

LIST: Final = Operation(
    id="listJobs",
    method="GET",
    path="/api/jobs",
    tag="jobs",
    text="List your jobs, the newest first.",
    parameters=(
        Parameter(
            "status",
            "Only jobs in this state.",
            {**TEXT, "enum": list(parameters.STATES)},
        ),
        Parameter(
            "limit",
            "How many at most.",
            {"type": "integer", "minimum": 1, "maximum": MAX_LIST, "default": 50},
        ),
        Parameter(
            "cursor",
            "The `nextCursor` of the page before.",
            {**TEXT, "pattern": f"^{parameters.CURSOR.pattern}$"},
        ),
    ),
    replies=(Reply(200, "A page of jobs.", json=answers.JobList),),
)

SHOW: Final = Operation(
    id="showJob",
    method="GET",
    path="/api/jobs/{job_id}",
    name="streamer-job",
    tag="jobs",
    text="Show a job: its state, times and output, and its result once it is over.",
    replies=(Reply(200, "The job.", json=answers.Job),),
)

CANCEL: Final = Operation(
    id="cancelJob",
    method="DELETE",
    path="/api/jobs/{job_id}",
    tag="jobs",
    text="Cancel a job, or remove it. A job that is over cannot be cancelled; `purge` removes the "
    "record and the log of such a job.",
    parameters=(Parameter("purge", "Whether to remove a job that is over.", FLAG),),
    replies=(
        Reply(202, "The job will be stopped.", json=answers.Cancelled),
        Reply(204, "The job is removed."),
    ),
    codes=("conflict",),
)

WRITE: Final = Operation(
    id="writeInput",
    method="POST",
    path="/api/jobs/{job_id}/stdin",
    name="streamer-stdin",
    tag="jobs",
    text="Send input to a program. The body goes to its standard input as it is, whatever its "
    "`Content-Type`, or is typed on its terminal. The job must have been submitted with "
    "`interactive` or `terminal`.",
    parameters=(
        Parameter("close", "Whether this is the end of the input.", FLAG),
        Parameter(
            "seq",
            "The number of the body's first byte in all input that is sent, from 0: what has come "
            "already is dropped, and with a gap before it the answer is a conflict.",
            {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
        ),
    ),
    body=Body("The bytes of the input.", required=False),
    replies=(Reply(202, "The program will be given it.", json=answers.InputTaken),),
    codes=("conflict",),
)

SIGNAL: Final = Operation(
    id="sendSignal",
    method="POST",
    path="/api/jobs/{job_id}/signal",
    name="streamer-signal",
    tag="jobs",
    text="Send a signal to a program. Its process group gets it too.",
    body=Body(
        "The signal.",
        json=wire._SignalRequest,  # noqa: SLF001 - as above
        examples={"Ctrl-C": {"signal": "SIGINT"}},
    ),
    replies=(Reply(202, "It will be sent.", json=answers.SignalSent),),
    codes=("invalid_json", "conflict"),
)

RESIZE: Final = Operation(
    id="resizeTerminal",
    method="POST",
    path="/api/jobs/{job_id}/resize",
    tag="jobs",
    text="Give the terminal of a job another size. Before the program runs the last one is kept.",
    body=Body(
        "The size.",
        json=wire._ResizeRequest,  # noqa: SLF001 - as above
        examples={"wider": {"cols": 132, "rows": 43}},
    ),
    replies=(Reply(202, "The terminal gets it.", json=answers.Resized),),
    codes=("invalid_json", "conflict"),
)
