"""Run the clients as docs/clients.md shows them, and see what each makes of a stream."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamer.sse import EventParser
from tests.browser.chromium import Browser, Page
from tests.tools import NODE_PACKAGES, node_with_packages, tool

__all__ = ["FOLLOWERS", "Follower", "Transcript", "chromium_page", "node", "snippet"]

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "clients.md").read_text()
FENCE: Final = re.compile(r"^```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# The pause before the next attempt is polite, but it is not what is tested.
PAUSES: Final = {"(1)": "(0.01)", "sleep 1\n": "sleep 0.01\n", ", 1000)": ", 10)"}


@dataclass(frozen=True)
class Transcript:
    """The program's output as a client reports it."""

    stdout: str
    stderr: str


Follower = Callable[[str, Path, Browser | None], Awaitable[Transcript]]


def snippet(title: str) -> str:
    """Return the code below a heading of docs/clients.md."""
    section = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    found = FENCE.search(section)
    assert found, title
    code = found[1]
    for pause, short in PAUSES.items():
        code = code.replace(pause, short)
    return code


async def output(*argv: str, folder: Path, program: str) -> tuple[str, str]:
    """Run a client with its program as input, and return what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env={**os.environ, "LANG": "C.UTF-8"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(program.encode())
    assert process.returncode == 0, err.decode(errors="replace")
    return out.decode(), err.decode()


async def python(title: str, url: str, folder: Path) -> Transcript:
    """Run a program of Python."""
    file = folder / "client.py"
    file.write_text(snippet(title))
    # Without translation of newlines, so that it prints exactly what arrived.
    return Transcript(
        *await output(sys.executable, "-W", "error", str(file), url, folder=folder, program="")
    )


async def node(program: str, url: str) -> tuple[str, str]:
    """Run a module of JavaScript to its own end, beside the packages."""
    argv = (node_with_packages(), "--input-type=module", "-", url)
    return await output(*argv, folder=NODE_PACKAGES, program=program)


IN_NODE: Final = (
    "const on = (kind, data) => kind === 'output' && process[data.stream].write(data.data);\n"
)


async def node_eventsource(url: str, _: Path, __: Browser | None) -> Transcript:
    """The package eventsource, with the browser's function."""
    program = snippet("Node.js: eventsource") + snippet("Browser: EventSource") + IN_NODE
    return Transcript(*await node(f"{program} follow(process.argv[2], on);", url))


async def node_fetch(url: str, _: Path, __: Browser | None) -> Transcript:
    """Fetch in Node.js."""
    program = snippet("Browser and Node.js: fetch") + IN_NODE
    loop = "for await (const { event, data } of follow(process.argv[2])) on(event, data);"
    return Transcript(*await node(program + loop, url))


async def chromium_page(browser: Browser, url: str) -> Page:
    """Open a page of the stream's own origin that has no policy and no scripts."""
    page = await browser.page()
    await page.open(re.sub(r"/api/stream/.*", "/healthz", url))
    return page


IN_CHROMIUM: Final = """
const got = { stdout: "", stderr: "" };
const on = (kind, data) => { if (kind === "output") got[data.stream] += data.data; };
"""


async def chromium_eventsource(url: str, _: Path, browser: Browser | None) -> Transcript:
    """Chromium's own EventSource."""
    assert browser is not None
    page = await chromium_page(browser, url)
    return Transcript(
        **await page.evaluate(f"""new Promise((resolve) => {{
            {snippet("Browser: EventSource")}
            {IN_CHROMIUM}
            follow({json.dumps(url)}, (kind, data) => {{
                on(kind, data);
                if (kind === "complete") resolve(got);
            }});
        }})""")
    )


async def chromium_fetch(url: str, _: Path, browser: Browser | None) -> Transcript:
    """Fetch in Chromium."""
    assert browser is not None
    page = await chromium_page(browser, url)
    return Transcript(
        **await page.evaluate(f"""(async () => {{
            {snippet("Browser and Node.js: fetch")}
            {IN_CHROMIUM}
            for await (const {{ event, data }} of follow({json.dumps(url)})) on(event, data);
            return got;
        }})()""")
    )


async def httpx_sse(url: str, folder: Path, _: Browser | None) -> Transcript:
    """The package httpx-sse."""
    return await python("Python: httpx-sse", url, folder)


async def aiohttp_sse_client(url: str, folder: Path, _: Browser | None) -> Transcript:
    """The package aiohttp-sse-client."""
    return await python("Python: aiohttp-sse-client", url, folder)


async def our_client(url: str, folder: Path, _: Browser | None) -> Transcript:
    """The client of this package."""
    return await python("Python: streamer.Client", url, folder)


async def curl(url: str, folder: Path, _: Browser | None) -> Transcript:
    """Curl; its output is the events themselves."""
    tool("curl")
    argv = ("bash", "-euo", "pipefail", "-s", "--", url)
    printed, _said = await output(*argv, folder=folder, program=snippet("curl"))
    events = EventParser().feed(printed.encode())
    assert (folder / "events").read_text() == printed
    pieces = [json.loads(data) for _, kind, data in events if kind == "output"]
    joined = {
        stream: "".join(piece["data"] for piece in pieces if piece["stream"] == stream)
        for stream in ("stdout", "stderr")
    }
    return Transcript(**joined)


FOLLOWERS: Final[tuple[Follower, ...]] = (
    chromium_eventsource,
    chromium_fetch,
    node_eventsource,
    node_fetch,
    httpx_sse,
    aiohttp_sse_client,
    our_client,
    curl,
)
