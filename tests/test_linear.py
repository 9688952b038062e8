"""Nothing that a caller or a job chooses costs more than time in proportion to its size.

All jobs, streams, limits and signals share one event loop: a pattern that tries every way to match
would stop them all. Each parser gets the worst input that is known for it at one, two and four
times a size. In proportion that is four times the work, by the square sixteen times.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from streamer import wire
from streamer.config import Config
from streamer.errors import StreamerError
from streamer.proxy_request import Refused, parse_request
from streamer.proxy_rules import Place
from streamer.resolve import Resolver
from streamer.runtimes import by_name

TOO_MUCH = 10.0
"""Times the work for four times the input: well above 4, well below 16."""
ROUNDS = 6

Parser = Callable[[Any], object]
Worst = Callable[[int], object]


def body(**fields: Any) -> bytes:
    return json.dumps({"language": "python", "code": "", **fields}).encode()


def files(names: list[str]) -> bytes:
    return body(files=[{"name": name, "content": ""} for name in names])


RESOLVER = Resolver(Config(), by_name(Config().runtimes), {})


def accept(data: bytes) -> None:
    RESOLVER.resolve(
        wire.parse_job(data), "job", default_backend="bwrap", unavailable={}, filtering=()
    )


def request(first: str, *headers: str) -> bytes:
    return "\r\n".join([first, *headers, "", ""]).encode("latin-1")


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
    once, _, four_times = seconds
    return four_times > TOO_MUCH * max(once, 1e-7)


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

    assert too_steep(costs(square, bytes, 4000))
