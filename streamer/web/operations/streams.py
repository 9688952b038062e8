"""The operations that follow jobs: streams, downloads, recordings, and who follows."""

from __future__ import annotations

from typing import Final

from streamer.web import answers
from streamer.web.operations.operation import PLACES, Operation, Parameter, Reply
from streamer.web.operations.shared import (
    ATTACHMENT,
    FLAG,
    JOB_ID,
    RESUMING,
    STATS,
    STREAM_HEADERS,
    TEXT,
)
from streamer.web.parameters import SPEED

__all__ = ["CAST", "FOLLOW", "FOLLOW_MANY", "MAX_MERGED", "OUTPUT", "READERS"]

MAX_MERGED: Final = 100
"""How many jobs one stream may follow: each makes the stream's ids longer."""

FOLLOW: Final = Operation(
    id="followJob",
    method="GET",
    path="/api/stream/{job_id}",
    name="streamer-stream",
    tag="streams",
    text="Follow a job: its events, from the first one or after the last one that the client has. "
    "The stream ends after `complete` or `error`.",
    parameters=(
        Parameter(
            "speed",
            "Send the events with their pauses, this many times as fast, up to 1000; 0: at once.",
            {**TEXT, "pattern": f"^({SPEED.pattern})$", "default": "0"},
        ),
        STATS,
        *RESUMING,
    ),
    replies=(
        Reply(
            200,
            "The events.",
            media=("text/event-stream",),
            headers=(JOB_ID, *STREAM_HEADERS),
        ),
        Reply(
            204,
            "The job is over, and the client has its last event. A browser's EventSource stops.",
            headers=(JOB_ID,),
        ),
    ),
    head=False,
)

FOLLOW_MANY: Final = Operation(
    id="followJobs",
    method="GET",
    path="/api/stream",
    tag="streams",
    text="Follow several jobs in one stream. The data of each event has the field `jobId`, and its "
    "id has the position in every job, in the order of the request.",
    parameters=(
        Parameter(
            "job",
            f"The id of a job; 1 to {MAX_MERGED} times.",
            {
                "type": "array",
                "items": {**TEXT, "pattern": f"^{PLACES['job_id']}$"},
                "minItems": 1,
                "maxItems": MAX_MERGED,
            },
            required=True,
            repeated=True,
        ),
        *RESUMING,
    ),
    replies=(
        Reply(200, "The events.", media=("text/event-stream",), headers=STREAM_HEADERS),
        Reply(204, "All jobs are over, and the client has all events."),
    ),
    codes=("not_found",),
    head=False,
)

OUTPUT: Final = Operation(
    id="readOutput",
    method="GET",
    path="/api/jobs/{job_id}/output/{stream}",
    name="streamer-output",
    tag="streams",
    text="Read what a program writes to standard output or standard error, to its end. It is byte "
    "for byte the output if the job has `outputEncoding: base64`; otherwise invalid UTF-8 is "
    "replaced by U+FFFD. A body that breaks off is incomplete.",
    parameters=(
        Parameter(
            "follow",
            "Whether to wait for the end of the job; otherwise only what is there is sent.",
            {**FLAG, "default": "1"},
        ),
    ),
    replies=(Reply(200, "The output.", media=("application/octet-stream",), headers=ATTACHMENT),),
    codes=("gone",),
    head=False,
)

CAST: Final = Operation(
    id="readRecording",
    method="GET",
    path="/api/jobs/{job_id}/cast",
    name="streamer-cast",
    tag="streams",
    text="Read a recording of a job's output for asciinema (asciicast v2), to the end of the job.",
    replies=(Reply(200, "The recording.", media=("application/x-asciicast",), headers=ATTACHMENT),),
    codes=("gone",),
    head=False,
)

READERS: Final = Operation(
    id="listReaders",
    method="GET",
    path="/api/jobs/{job_id}/sessions",
    tag="streams",
    text="List who follows a job.",
    replies=(Reply(200, "The readers.", json=answers.Readers),),
)
