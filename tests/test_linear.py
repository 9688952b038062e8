"""Nothing that a caller or a job chooses costs more than time in proportion to its size.

All jobs, streams, limits and signals share one event loop: a pattern that tries every way to match
would stop them all. Each parser gets the worst input that is known for it at one, two and four
times a size. In proportion that is four times the work, by the square sixteen times.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from yarl import URL

from streamer.config.schema import Config
from streamer.engine.memory.fairqueue import FairQueue
from streamer.errors import StreamerError
from streamer.eventlog.frames import EventParser, frame, joined_lines, split_frames, to_json
from streamer.eventlog.log import EventLog
from streamer.jobs.archives.entries import text_of
from streamer.jobs.archives.tar import _extended as extended
from streamer.jobs.archives.tar import read_tar
from streamer.jobs.archives.zip import LARGE
from streamer.jobs.archives.zip import _sizes as zip_sizes
from streamer.jobs.project import Contents, Project
from streamer.jobs.resolve import Resolver
from streamer.model.capabilities import BackendFacts, Capabilities
from streamer.model.events import Output, encode
from streamer.model.globs import Glob
from streamer.model.hosts import Place
from streamer.model.job import Lane
from streamer.model.project import StoredEntry
from streamer.model.runtime import by_name
from streamer.model.terminal import TerminalFilter, visible
from streamer.sandbox.network.request import Refused, parse_request
from streamer.sse.response import id_number
from streamer.sse.sources import merged_positions
from streamer.web import wire
from streamer.web.callers.address import client_address
from streamer.web.callers.origin import check_origin
from streamer.web.parameters import cursor, idempotency, number, prefer_wait_s, speed, takes
from streamer.web.previews import preview_type
from streamer.web.projects import _boundary
from streamer.web.ranges import byte_range
from streamer.worker.output import TextDecoder
from tests.jobs.archives import raw_header

TOO_MUCH = 10.0
"""The most work, as a factor, for four times the input: well above 4, well below 16."""
A_STEP = 2.8
"""The same for each doubling: well above 2."""
ROUNDS = 6

Parser = Callable[[Any], object]
Worst = Callable[[int], object]


def body(**fields: Any) -> bytes:
    return json.dumps({"language": "python", "code": "", **fields}).encode()


def files(names: list[str]) -> bytes:
    return body(files=[{"name": name, "content": ""} for name in names])


RESOLVER = Resolver(Config(), by_name(Config().runtimes))
WORKERS = Capabilities(
    {"bwrap": BackendFacts("namespaces", readable=True)},
    default="bwrap",
    languages=frozenset(Config().runtimes),
    missing={},
    processors=1,
    places=1,
)


def accept(data: bytes) -> None:
    RESOLVER.resolve(wire.parse_job(data), "job", WORKERS)


def accept_over(project: Project, data: bytes) -> None:
    RESOLVER.resolve(wire.parse_job(data), "job", WORKERS, "", project)


def project_of(*names: str) -> Project:
    entries = [StoredEntry(name, 0, stat.S_IFREG | 0o644, 0) for name in names]
    return Project("id", Contents.of(entries), 0.0)


SMALL = project_of("main.py")


def request(first: str, *headers: str) -> bytes:
    return "\r\n".join([first, *headers, "", ""]).encode("latin-1")


def asked(parse: Callable[[web.Request], object]) -> Parser:
    """Return a parser of requests; what it gets is a query and headers."""

    def parser(given: Any) -> object:
        path = str(URL("/").with_query(given.get("query", {})))
        made = make_mocked_request("GET", path, headers=given.get("headers"), transport=TRANSPORT)
        parsed = parse(made)
        if inspect.iscoroutine(parsed):
            with contextlib.suppress(StopIteration):
                parsed.send(None)
        return parsed

    return parser


async def nothing(request: web.Request) -> web.Response:
    return web.Response(text=request.path)


def encode_output(text: str) -> bytes:
    return encode(Output("stdout", text, 0, "run"))[1]


def in_pieces(data: Any) -> None:
    parser = EventParser()
    for at in range(0, len(data), 16):
        parser.feed(data[at : at + 16])


def shown(data: Any) -> None:
    filtered = TerminalFilter("utf-8")
    for at in range(0, len(data), 16):
        filtered.feed(data[at : at + 16])
    filtered.end()


class Whole:
    """A stream that is read at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, _: int) -> bytes:
        data, self._data = self._data, b""
        return data


LANE = Lane("bwrap", "python", None, None)


def queued(jobs: Any) -> None:
    """Let jobs wait, each of a tenant and with a priority, and take them."""
    queue = FairQueue()
    for count, (tenant, priority) in enumerate(jobs):
        queue.push(tenant, str(count), 1, priority, LANE)
        queue.position(tenant, str(count))
    list(queue.in_order())
    while queue.pop() is not None:
        pass


TRANSPORT = mock.Mock()
TRANSPORT.get_extra_info.return_value = ("127.0.0.1", 1)
MARK = "` - at `"

CASES: dict[str, tuple[Parser, Worst, int]] = {
    # The body of a submission.
    "an unknown field": (wire.parse_job, lambda n: body(**{MARK * n + "\n": 1}), 1000),
    "an unknown field of a file": (
        wire.parse_job,
        lambda n: body(files=[{"name": "a", "content": "", MARK * n + "\n": 1}]),
        1000,
    ),
    "an unknown value": (wire.parse_job, lambda n: body(outputEncoding=MARK * n + "\n"), 1000),
    "a wrong type": (wire.parse_job, lambda n: body(args=["\n" * n, 1]), 50_000),
    "a mode": (
        wire.parse_job,
        lambda n: body(files=[{"name": "a", "content": "", "mode": "0" * n}]),
        50_000,
    ),
    "base64": (
        wire.parse_job,
        lambda n: body(files=[{"name": "a", "content": "A" * n + "=", "encoding": "base64"}]),
        200_000,
    ),
    "digits": (
        wire.parse_job,
        lambda n: body(limits={}).replace(b"{}", b'{"wallTimeS":%b}' % (b"9" * n)),
        2000,
    ),
    "brackets": (wire.parse_job, lambda n: b"[" * n, 200_000),
    "an unknown field of a signal": (
        wire.parse_signal,
        lambda n: json.dumps({MARK * n + "\n": 1}).encode(),
        1000,
    ),
    # What is checked of a job.
    "names of files": (accept, lambda n: files([f"f{i}" for i in range(n)]), 2000),
    "names with folders": (
        accept,
        lambda n: files([f"{'a/' * 60}{i}/f" for i in range(n)]),
        1000,
    ),
    "names with folders of their own": (
        accept,
        lambda n: files(["/".join([f"d{i}", *"a" * 30]) for i in range(n)]),
        70,
    ),
    "a deep name": (accept, lambda n: files(["a/" * n]), 50_000),
    "a long name": (accept, lambda n: files(["a" * n]), 100_000),
    "one name many times": (accept, lambda n: files(["a"] * n), 20_000),
    "an entry": (accept, lambda n: body(entry="/" * n), 50_000),
    "arguments": (accept, lambda n: body(args=["a"] * n), 20_000),
    "variables": (accept, lambda n: body(env={f"v{i}": "" for i in range(n)}), 5000),
    "a variable's name": (accept, lambda n: body(env={"_" * n + ".": ""}), 20_000),
    "metadata": (accept, lambda n: body(metadata={f"v{i}": "" for i in range(n)}), 500),
    "a size": (accept, lambda n: body(limits={"memoryBytes": "1" * n + "!"}), 4000),
    "a size's blanks": (accept, lambda n: body(limits={"memoryBytes": "1" + " " * n + "!"}), 4000),
    "a size's underscores": (
        accept,
        lambda n: body(limits={"memoryBytes": "1_1" * n + "!"}),
        4000,
    ),
    "deep files over a project": (
        partial(accept_over, SMALL),
        lambda n: files([f"{'a/' * 15 * (n // 250)}{i}" for i in range(n)]),
        250,
    ),
    "patterns of files": (accept, lambda n: body(artifacts=["a"] * n), 20_000),
    "a long pattern": (accept, lambda n: body(artifacts=["*?" * n]), 50_000),
    "a pattern's class": (accept, lambda n: body(artifacts=["[" * n]), 50_000),
    "an unknown language": (accept, lambda n: json.dumps({"language": "\n" * n}).encode(), 50_000),
    # The head of a request to a job's proxy.
    "a header's blanks": (
        parse_request,
        lambda n: request("GET http://a.org/ HTTP/1.1", "A:" + " " * n + "\0"),
        4000,
    ),
    "a header's name": (
        parse_request,
        lambda n: request("GET http://a.org/ HTTP/1.1", "A" * n),
        4000,
    ),
    "a URL": (parse_request, lambda n: request(f"GET http://{'a' * n}# HTTP/1.1"), 4000),
    "a URL's path": (parse_request, lambda n: request(f"GET http://a{'/' * n}# HTTP/1.1"), 4000),
    "a URL's queries": (parse_request, lambda n: request(f"GET http://a{'?' * n}# HTTP/1.1"), 4000),
    "a method": (parse_request, lambda n: request("G" * n), 4000),
    "a first line": (parse_request, lambda n: request("GET " + "/ HTTP/1." * n + "\0"), 400),
    "a header that names headers": (
        parse_request,
        lambda n: request("GET http://a.org/ HTTP/1.1", "Connection: " + "a," * n),
        2000,
    ),
    "a host": (lambda text: Place.parse(text, 80), lambda n: "a." * n, 2000),
    "a label": (lambda text: Place.parse(text, 80), lambda n: "a" * n + "!", 4000),
    "an address": (lambda text: Place.parse(text, 80), lambda n: f"[{':' * n}]", 4000),
    "a port": (lambda text: Place.parse(text, 80), lambda n: f"a:{'1' * n}", 4000),
    "a last label of digits": (lambda text: Place.parse(text, 80), lambda n: "1" * n, 4000),
    # Queries and headers.
    "a query": (asked(takes(nothing)), lambda n: {"query": {"x": "a" * n}}, 20_000),
    "a query's names": (
        asked(takes(nothing, "x")),
        lambda n: {"query": [("x", str(i)) for i in range(n)]},
        2000,
    ),
    "a number of a query": (
        asked(lambda request: number(request, "x", 1, 1, 10)),
        lambda n: {"query": {"x": "0" * n}},
        50_000,
    ),
    "a speed": (asked(speed), lambda n: {"query": {"speed": "0." + "0" * n}}, 50_000),
    "a cursor": (asked(cursor), lambda n: {"query": {"cursor": "1." * n}}, 50_000),
    "a wait": (asked(prefer_wait_s), lambda n: {"headers": {"Prefer": "wait" + " " * n}}, 50_000),
    "waits": (asked(prefer_wait_s), lambda n: {"headers": {"Prefer": "wait =" * n}}, 10_000),
    "preferences": (asked(prefer_wait_s), lambda n: {"headers": {"Prefer": "a=b;," * n}}, 5000),
    "a key": (
        asked(lambda request: idempotency(request, b"")),
        lambda n: {"headers": {"Idempotency-Key": "a" * n}},
        50_000,
    ),
    "an id": (lambda text: id_number(text, 10), lambda n: "1" * n, 200_000),
    "an id of several streams": (
        lambda text: merged_positions(text, [EventLog()] * 100),
        lambda n: "1." * n,
        50_000,
    ),
    "an origin": (
        asked(lambda request: check_origin(request, Config())),
        lambda n: {"headers": {"Origin": "http://" + "a." * n, "Host": "127.0.0.1"}},
        20_000,
    ),
    "a host's name": (
        asked(lambda request: check_origin(request, Config())),
        lambda n: {"headers": {"Host": "[" + ":" * n}},
        20_000,
    ),
    "proxies": (
        asked(client_address(["127.0.0.0/8"])),
        lambda n: {"headers": {"X-Forwarded-For": "127.0.0.1," * n}},
        200,
    ),
    "a range": (
        asked(lambda request: byte_range(request.headers.get("Range"), 10)),
        lambda n: {"headers": {"Range": "bytes=" + " " * n + "-"}},
        20_000,
    ),
    # An upload.
    "a name of an archive": (text_of, lambda n: b"./" * n, 20_000),
    "an extended header": (
        lambda data: extended(ord("x"), data),
        lambda n: b"4 =\n" * n,
        50_000,
    ),
    "headers of a tar archive": (
        lambda data: list(read_tar(Whole(data))),
        lambda n: raw_header(b"a", b"00000000000\0") * n,
        1000,
    ),
    "an extra field": (
        lambda extra: zip_sizes("a", extra, LARGE, 0, 0),
        lambda n: bytes(4 * n),
        20_000,
    ),
    "a media type's parameters": (
        asked(_boundary),
        lambda n: {"headers": {"Content-Type": "multipart/form-data" + ";" * n}},
        2000,
    ),
    "a media type's quotes": (
        asked(_boundary),
        lambda n: {"headers": {"Content-Type": 'multipart/form-data; x="' + ";\\a" * n}},
        2000,
    ),
    # What a program leaves.
    "a name that nearly matches": (Glob("*a*a*a*a*a*b").matches, lambda n: "a" * n, 20_000),
    "a name that nearly matches again and again": (
        Glob("*aaaa?aab*aab").matches,
        lambda n: "a" * n,
        20_000,
    ),
    "folders that nearly match": (
        Glob("**/a/**/a/**/a/**/b").matches,
        lambda n: "a/" * n + "a",
        2000,
    ),
    "the first bytes of a file": (preview_type, lambda n: b"\xc3\xa9" * n + b"\0", 100_000),
    # What a program writes.
    "output of invalid bytes": (
        lambda data: TextDecoder().decode(data, final=True),
        lambda n: b"\xf0\x90\xff" * n,
        20_000,
    ),
    "output of line ends that JSON leaves": (
        lambda text: encode(Output("stdout", text, 0, "run")),
        lambda n: "\u2028\x85\n\0" * n,
        20_000,
    ),
    "output that is told again": (
        lambda text: list(split_frames(frame("output", encode_output(text), 1) * 4)),
        lambda n: "\n: data: id: event:" * n,
        10_000,
    ),
    "output of many events": (
        lambda count: list(split_frames(frame("output", b"{}", 1) * count)),
        lambda n: n,
        2000,
    ),
    "lines of an event": (joined_lines, lambda n: b"\r\n\r" * n, 20_000),
    "text of an event": (to_json, lambda n: "\ud800\u2028" * n, 20_000),
    "a stream in pieces": (in_pieces, lambda n: b"data: x\r\ndata:\n" * n + b"x" * n, 1000),
    "a stream without an end of line": (in_pieces, lambda n: b"x" * n, 20_000),
    "a terminal's strings": (shown, lambda n: b"\x1b]" * n, 5000),
    "a terminal's parameters": (shown, lambda n: b"\x1b[" + b"1;" * n, 5000),
    "a terminal's escapes": (shown, lambda n: b"\x1b[\x1b\x9b" * n, 5000),
    "a message of the log": (visible, lambda n: "\n\x1b" * n, 20_000),
    # The queue.
    "jobs of one tenant": (queued, lambda n: [("", 0)] * n, 2000),
    "jobs of all priorities": (queued, lambda n: [("", i % 21 - 10) for i in range(n)], 2000),
    "jobs that overtake all others": (
        queued,
        lambda n: [("", min(i * 21 // n, 20) - 10) for i in range(n)],
        2000,
    ),
    "jobs of tenants with one each": (queued, lambda n: [(str(i), 0) for i in range(n)], 2000),
}


def cost(parse: Parser, data: object) -> float:
    began = time.thread_time()
    with contextlib.suppress(StreamerError, Refused, ValueError):  # as it should, mostly
        parse(data)
    return time.thread_time() - began


def costs(parse: Parser, worst: Worst, size: int) -> list[float]:
    """Return the best of several runs each with an input of one, two and four times a size."""
    inputs = [worst(size * times) for times in (1, 2, 4)]
    return [min(cost(parse, data) for _ in range(5)) for data in inputs]


def too_steep(seconds: list[float]) -> bool:
    once, twice, four_times = (max(value, 1e-7) for value in seconds)
    # With quadratic time each step is four times as much. One step alone may be memory: from some
    # size on, each block is requested from the kernel.
    return four_times > TOO_MUCH * once and min(twice / once, four_times / twice) > A_STEP


@pytest.mark.parametrize("name", CASES)
def test_four_times_the_input_is_about_four_times_the_work(name: str) -> None:
    parse, worst, size = CASES[name]
    seen = []
    # Another program on the machine can only make one look worse.
    for _ in range(ROUNDS):
        seen.append(costs(parse, worst, size))
        if not too_steep(seen[-1]):
            return
    pytest.fail(f"{name}: one, two and four times the input cost {seen} seconds")


def test_the_measure_tells_a_square() -> None:
    def square(data: bytes) -> None:
        for _ in data:
            data.count(b"x")

    # Another program on the machine may disturb the shortest run most, and so hide the steps.
    assert any(too_steep(costs(square, bytes, 4000)) for _ in range(ROUNDS))
