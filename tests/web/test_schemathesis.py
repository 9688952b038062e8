"""Requests made from the OpenAPI document, right and wrong ones, to a real service.

Schemathesis checks that each answer is one that the document describes, by its status, media type,
headers and body, events of streams too; that what the document forbids is refused, and what it
allows is taken; and that links lead where they say.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Final

import pytest

import tests
from streamer.web.operations.table import OPERATIONS
from tests.conftest import Start

ROOT: Final = Path(tests.__file__).parents[1]

REQUESTS: Final = int(os.environ.get("STREAMER_TEST_REQUESTS", "300"))
"""How many at least; CI asks once for 5,000."""
PER_OPERATION: Final = REQUESTS * 3 // 2 // len(OPERATIONS)
"""Some operations have not so many different ones."""
SEED: Final = 20261128
MOST_S: Final = 60 + REQUESTS / 40
"""5,000 take a minute of two processors; it may take longer where others use them too."""

CONFIG: Final = """
[generation]
allow-x00 = true

# A schema cannot say all that a job must be: that its entry is among its files, for example, or
# that a key comes with the same request again.
[[operations]]
include-operation-id = "execute"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "404", "409", "410", "429"]
checks.negative_data_rejection.expected-statuses = ["4xx", "503"]

# A batch is answered, whatever becomes of its jobs. Each is many jobs, for whose end the streams of
# other requests would wait.
[[operations]]
include-operation-id = "executeBatch"
generation.max-examples = 5
checks.negative_data_rejection.expected-statuses = ["2xx", "4xx", "503"]

# A session that is known may have ended, and its project may be unknown.
[[operations]]
include-operation-id = "openSession"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "429"]

[[operations]]
include-operation-id-regex = "(show|end|list|read|write|remove)Session"
checks.positive_data_acceptance.expected-statuses = ["2xx", "304", "400", "404", "409", "410", "416", "429"]
checks.negative_data_rejection.expected-statuses = ["4xx", "503"]

# Nor can it say what is in an archive, or what the names of the files of a form are.
[[operations]]
include-operation-id = "uploadProject"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "413", "429"]

# Nor what the path of a file is: without `..`, for example; or what a grant looks like.
[[operations]]
include-operation-id = "readFile"
checks.positive_data_acceptance.expected-statuses = ["2xx", "304", "400", "401", "404", "416"]

# A grant has a longest time, which is configured.
[[operations]]
include-operation-id = "createGrant"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404"]

# A replay may be as slow as one likes.
[[operations]]
include-operation-id = "followJob"
parameters = { "query.speed" = "1000" }

# DELETE cancels a job, which stays; only with `purge` it is removed.
[checks.use_after_free]
enabled = false
"""


@pytest.mark.slow
@pytest.mark.timeout(2 * MOST_S)
@pytest.mark.memory_engine("what answers look like does not depend on the engine")
async def test_every_answer_is_one_of_the_document(start: Start, tmp_path: Path) -> None:
    client = await start(
        sandbox={"allow_command": False},
        # Every program ends soon, and with it every stream.
        limits={
            "default": {"wall_time_s": 0.5, "cpu_time_s": 0.5},
            "max": {"wall_time_s": 1, "cpu_time_s": 1},
        },
        streams={"grace_s": 0},
    )
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    program = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        *("run", str(client.make_url("/openapi.json"))),
        *("--seed", str(SEED), "--max-examples", str(PER_OPERATION), "--workers", "4"),
        *("--generation-database", "none", "--no-shrink", "--no-color"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.web.uploads"},
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        async with asyncio.timeout(MOST_S):
            said, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    text = said.decode()
    assert program.returncode == 0, text
    generated = re.search(r"([\d,]+) generated", text)
    assert generated is not None, text
    assert int(generated[1].replace(",", "")) >= REQUESTS, text
    # Sequences of requests, by the links of the document.
    assert re.search(r"API Links: +[1-9]", text), text
