"""The log of a standalone service: machine-readable, and no caller can forge a line."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from streamer.config.schema import LoggingConfig
from streamer.engine.interface import JobView
from streamer.model.events import Complete, Error
from streamer.model.job import JobFacts
from streamer.web.server.logs import configure_logging, log_finished


@dataclass
class Said:
    """The lines on standard error so far."""

    capsys: pytest.CaptureFixture[str]
    text: str = ""

    def getvalue(self) -> str:
        self.text += self.capsys.readouterr().err
        return self.text


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Catch what is logged to standard error, and put the loggers back as they were."""
    root, server = logging.getLogger(), logging.getLogger("aiohttp.server")
    level, filters = root.level, server.filters[:]
    yield Said(capsys)
    server.filters[:] = filters
    root.setLevel(level)


def configure(config: LoggingConfig) -> None:
    """Configure logging as in a new process: pytest has handlers of its own."""
    logging.getLogger().handlers.clear()
    configure_logging(config)


def test_a_json_line_has_the_time_with_its_zone_and_the_fields(said: Said) -> None:
    configure(LoggingConfig(format="json"))
    logging.getLogger("x").info("a\nb %s", "c", extra={"fields": {"tenant": "t", "n": 1}})
    line = said.getvalue()
    assert line.count("\n") == 1
    document = json.loads(line)
    assert datetime.fromisoformat(document.pop("time")).utcoffset() is not None
    assert document.pop("node") == f"{socket.gethostname()}:{os.getpid()}"
    assert document == {
        "level": "info", "logger": "x", "message": "a\nb c", "tenant": "t", "n": 1,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_forges_a_line(said: Said, form: str) -> None:
    configure(LoggingConfig(format=form))  # type: ignore[arg-type]
    logging.getLogger("x").error("no %s", "\n2026-01-01 ERROR x: forged\r\x1b[2K")
    assert said.getvalue().count("\n") == 1
    assert "\x1b" not in said.getvalue()
    fault = ValueError("ours").with_traceback(None)
    logging.getLogger("x").error("failed", exc_info=fault)
    assert "ours" in said.getvalue()
    assert said.getvalue().count("\n") == (3 if form == "text" else 2)


def test_a_port_scan_leaves_nothing_and_a_fault_of_ours_its_traceback(said: Said) -> None:
    configure(LoggingConfig())
    server = logging.getLogger("aiohttp.server")
    server.error("Error handling request from %s", "1.2.3.4", exc_info=BadHttpMessage("x"))
    assert said.getvalue() == ""
    server.error("Error handling request from %s", "1.2.3.4", exc_info=KeyError("ours"))
    assert "KeyError" in said.getvalue()


def view(result: Complete | Error, started_at: float | None = 101.5) -> JobView:
    job = JobFacts("j1", "python", "bwrap", interactive=False, metadata={})
    return JobView(job, "alice", "complete", 100.0, started_at, 103.0, result)


COMPLETE = Complete("exited", 3, None, 12, 7, 4096, False, False, 5, False, "bwrap", "run")


def test_a_job_that_is_over_is_one_line(said: Said) -> None:
    configure(LoggingConfig(format="json"))
    log_finished(view(COMPLETE))
    log_finished(view(Error("worker_lost", "gone"), None))
    ended, lost = map(json.loads, said.getvalue().splitlines())
    assert ended["logger"] == "streamer.jobs"
    assert {
        key: value for key, value in ended.items() if key not in ("time", "level", "logger", "node")
    } == {
        "message": (
            "job_id=j1 tenant=alice language=python sandbox=bwrap waited_ms=1500 reason=exited "
            "exit_code=3 duration_ms=12 cpu_time_ms=7 peak_memory_bytes=4096 output_bytes=5"
        ),
        "job_id": "j1",
        "tenant": "alice",
        "language": "python",
        "sandbox": "bwrap",
        "waited_ms": 1500,
        "reason": "exited",
        "exit_code": 3,
        "signal": None,
        "duration_ms": 12,
        "cpu_time_ms": 7,
        "peak_memory_bytes": 4096,
        "output_bytes": 5,
    }
    assert (lost["reason"], lost["code"], lost["error"]) == ("error", "worker_lost", "gone")


def test_a_text_line_begins_with_the_time(said: Said) -> None:
    configure(LoggingConfig())
    log_finished(view(COMPLETE))
    assert re.match(r"\d{4}-\d\d-\d\d [\d:,]+ INFO streamer\.jobs: job_id=j1 ", said.getvalue())
