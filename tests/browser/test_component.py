"""`<streamer-run>` in a page of another origin, which has a strict policy of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.browser.chromium import Browser, Page
from tests.browser.test_playground import PACED, go_on
from tests.conftest import Start
from tests.interop.cutter import Cutter, cutting

COLOURFUL = r"""
import sys
name = input()
print(f"\x1b[31mred\x1b[0m <b>{name}</b>")
print("to stderr", file=sys.stderr)
sys.exit(3)
"""

DOCUMENT = Path(__file__).parents[2] / "docs" / "component.md"
LESSON = """<!doctype html><html lang="en"><title>Lesson</title>
{documented}
<pre><code id="paced">{paced}</code></pre>
<streamer-run id="first" language="python" for="paced"></streamer-run>
<div class="highlight"><pre><span>print</span>(1)</pre></div>
<p><streamer-run id="second" language="python" editable stdin="Zoé &amp; co" theme="dark"></streamer-run></p>
<streamer-run id="third" language="python" token="wrong"><pre>print(2)</pre></streamer-run>
<streamer-run id="fourth" src="{elsewhere}" language="cobol"><pre>print(3)</pre></streamer-run>
"""


def part(element: str, selector: str) -> str:
    root = f"document.querySelector('#{element}').shadowRoot"
    return f"{root}.querySelector({json.dumps(selector)})"


def lines(element: str) -> str:
    root = f"document.querySelector('#{element}').shadowRoot"
    return (
        f"[...{root}.querySelectorAll('.line')]"
        ".map((line) => line.className.split(' ')[1] + ':' + line.textContent.trim()).join('|')"
    )


async def click(page: Page, element: str) -> None:
    await page.evaluate(f"{part(element, '.run')}.click()")


async def verdict(page: Page, element: str) -> str:
    state = part(element, ".state")
    said: str = await page.until(f"{state}.dataset.tone && {state}.textContent")
    return said


class Lesson:
    """A page of a course at one origin, and the service that it uses at another."""

    def __init__(self) -> None:
        self.text = ""
        self.policy = ""
        self.server = TestServer(web.Application(), host="127.0.0.1")
        self.server.app.router.add_get("/", self._serve)

    async def _serve(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": self.policy}
        return web.Response(text=self.text, content_type="text/html", headers=headers)


@pytest.fixture
async def lesson() -> AsyncIterator[Lesson]:
    page = Lesson()
    await page.server.start_server()
    yield page
    await page.server.close()


@pytest.fixture
async def service(start: Start, lesson: Lesson) -> AsyncIterator[tuple[Any, Cutter]]:
    """Return a client of a service that admits the page, and a proxy in front of the service."""
    origin = str(lesson.server.make_url("/")).rstrip("/")
    client: Any = await start(server={"allowed_origins": [origin]})
    async with cutting("127.0.0.1", int(client.port or 0)) as proxy:
        (documented,) = re.findall(
            "^```html\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
        )
        lesson.text = LESSON.format(
            documented=documented.replace("https://code.example.org", proxy.address),
            paced=PACED.replace("<", "&lt;"),
            elsewhere=proxy.address,
        )
        lesson.policy = (
            f"default-src 'none'; script-src {proxy.address}; connect-src {proxy.address}; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        yield client, proxy


async def test_a_course_runs_its_code_blocks(
    browser: Browser, lesson: Lesson, service: tuple[Any, Cutter]
) -> None:
    client, proxy = service
    page = await browser.page(width=390, height=800)
    await page.open(str(lesson.server.make_url("/")))
    await page.until("customElements.get('streamer-run') !== undefined")
    # A connection that is lost is resumed after the last event, and nothing is shown twice.
    await click(page, "first")
    await page.until(f"{lines('first')} === 'stdout:line 0'")
    proxy.cut()
    await proxy.until_streams(2)  # the browser asks first whether it may
    resumed = proxy.streams[1]
    assert int(resumed.last_event_id or 0) > 0
    job_id = resumed.target.rpartition("/")[2]
    await go_on(client, job_id)
    await page.until(f"{lines('first')} === 'stdout:line 0|stdout:line 1'")
    # One can stop it by the keyboard.
    await page.evaluate(f"{part('first', '.bar button:not([hidden])')}.focus()")
    await page.press("Escape")
    assert (await verdict(page, "first")).startswith("cancelled")
    # A block that is edited, with input; Ctrl-Enter runs it. Output becomes no markup.
    block = "document.querySelector('.highlight pre')"
    await page.evaluate(f"{block}.focus(); getSelection().selectAllChildren({block})")
    await page.type(COLOURFUL)
    await page.press("Enter", ctrl=True)
    said = await verdict(page, "second")
    assert said.startswith("failed with exit code 3, duration "), await page.evaluate(
        lines("second")
    )
    shown = await page.evaluate(lines("second"))
    assert sorted(shown.split("|")) == ["stderr:to stderr", "stdout:red <b>Zoé & co</b>"]
    red = f"getComputedStyle({part('second', '.fg-1')}).color"
    assert await page.evaluate(red) == "rgb(255, 123, 114)"
    for wide in (".bar", ".box"):
        right = f"{part('second', wide)}.getBoundingClientRect().right"
        assert await page.evaluate(right) <= 390
    if shots := os.environ.get("SHOTS"):
        await page.screenshot(Path(shots))
    # One without options, as the document has it, and one with a token.
    await page.evaluate("document.querySelector('streamer-run').id = 'documented'")
    for element, output in (("documented", "hello"), ("third", "2")):
        await click(page, element)
        assert (await verdict(page, element)).startswith("finished, duration ")
        assert await page.evaluate(lines(element)) == f"stdout:{output}"
    # A refusal is said in words: the service knows no such language.
    await click(page, "fourth")
    assert "cobol" in await verdict(page, "fourth")
    # An element that is taken away stops what it runs.
    await click(page, "first")
    await page.until(f"{lines('first')} === 'stdout:line 0'")
    await page.evaluate("document.querySelector('#first').remove()")
    async with asyncio.timeout(30):
        while True:
            async with client.get("/api/queue") as response:
                if (await response.json())["running"] == 0:
                    break
    assert page.errors == []
    assert await page.evaluate("window.violations") == []


async def test_only_a_page_that_is_allowed_can_load_and_run_it(
    lesson: Lesson, service: tuple[Any, Cutter]
) -> None:
    client, _ = service
    headers = {"Origin": str(lesson.server.make_url("/")).rstrip("/")}
    async with client.get("/static/playground/streamer-run.js", headers=headers) as response:
        assert response.headers["Access-Control-Allow-Origin"] == headers["Origin"]
        # A cache keeps each origin's answer apart, and the compressed one.
        assert response.headers["Vary"] == "Accept-Encoding, Origin"
    job = {"language": "python", "code": "print(1)"}
    for method, path in (("GET", "/static/playground/streamer-run.js"), ("POST", "/api/execute")):
        headers = {"Origin": "https://other.example.org"}
        async with client.request(method, path, json=job, headers=headers) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
