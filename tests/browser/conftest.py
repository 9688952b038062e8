"""The playground of a service, in Chromium."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from tests.browser.chromium import Browser, Page
from tests.conftest import Start
from tests.interop.cutter import Cutter, cutting

HIGHLIGHTED = "document.querySelector('#highlighted')"

IN_PLAIN = f"{HIGHLIGHTED}.hidden"
"""Whether the program is in the plain text area."""

PROGRAM = f"""(({IN_PLAIN}) ? document.querySelector("#code").value
    : [...{HIGHLIGHTED}.shadowRoot.querySelectorAll(".cm-line")]
        .map((line) => line.textContent).join("\\n"))"""
"""The text of the file that is shown."""


SELECTED_LINE = f"""(({IN_PLAIN}) ? getSelection().toString()
    : {HIGHLIGHTED}.shadowRoot.querySelector(".cm-activeLine").textContent)"""


async def settled(page: Page) -> None:
    """Wait until the page has offered a program, in the editor that stays."""
    await page.until(f"""document.querySelector("#language").value !== "" &&
        (!{IN_PLAIN} || document.querySelector("meta[name=streamer-bundle]").content === "")""")


async def focus_program(page: Page) -> None:
    await page.evaluate(f"""(({IN_PLAIN}) ? document.querySelector("#code")
        : {HIGHLIGHTED}.shadowRoot.querySelector(".cm-content")).focus()""")


async def paste_program(page: Page, text: str) -> None:
    """Put text in the place of the whole file, as somebody does who pastes it."""
    await focus_program(page)
    await page.press("a", ctrl=True)
    await page.evaluate(f"""{{
        const text = {json.dumps(text)};
        const at = {HIGHLIGHTED}.shadowRoot?.activeElement ?? document.activeElement;
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", text);
        const paste = {{ clipboardData, bubbles: true, cancelable: true, composed: true }};
        if (at.dispatchEvent(new ClipboardEvent("paste", paste))) {{
            document.execCommand("insertText", false, text);
        }}
    }}""")


class Playground:
    """The page at one address: opens it, runs programs in it, and reads what it shows."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser = browser
        self._pages: list[Page] = []
        self.address = address

    async def open(self, fragment: str = "", **look: Any) -> Page:
        """Open the page with cookies and storage of its own."""
        page = await self._browser.page(**look)
        self._pages.append(page)
        await page.open(self.address + fragment)
        await settled(page)
        return page

    @staticmethod
    async def write(page: Page, code: str, language: str = "python") -> None:
        """Choose a language and write a program, as if by hand."""
        await page.evaluate(f"""{{
            const choice = document.querySelector("#language");
            choice.value = {json.dumps(language)};
            choice.dispatchEvent(new Event("change"));
        }}""")
        await paste_program(page, code)

    async def run(self, page: Page, code: str, language: str = "python") -> str:
        """Run a program and return the id of its job."""
        await self.write(page, code, language)
        await page.press("Enter", ctrl=True)
        found: str = await page.until("new URLSearchParams(location.hash.slice(1)).get('job')")
        return found

    @staticmethod
    async def verdict(page: Page) -> str:
        """Wait for the end of a run, and return what the page shows as its verdict."""
        said: str = await page.until("document.querySelector('#verdict').textContent")
        return said

    @staticmethod
    async def lines(page: Page) -> list[list[str]]:
        """Return the lines of output, each with the name of its stream."""
        shown: list[list[str]] = await page.evaluate(
            "[...document.querySelectorAll('#output > .line')]"
            ".map((line) => [line.classList[1], line.textContent.replace(/\\n$/, '')])"
        )
        return shown

    async def check(self) -> None:
        """Fail if a page had an error or did what its policy forbids."""
        for page in self._pages:
            assert page.errors == []
            assert await page.evaluate("window.violations") == []


@pytest.fixture
async def client(start: Start) -> TestClient[Any, Any]:
    """Return a client of a service that lets callers choose the sandbox `plain`."""
    return await start(sandbox={"allow": ["plain"]})


@pytest.fixture
async def cutter(client: TestClient[Any, Any]) -> AsyncIterator[Cutter]:
    """Return a proxy in front of that service, which cuts connections."""
    async with cutting("127.0.0.1", int(client.port or 0)) as proxy:
        yield proxy


@pytest.fixture
async def playground(browser: Browser, cutter: Cutter) -> AsyncIterator[Playground]:
    """Return the playground of that service; at the end check that it has obeyed its policy."""
    async with AsyncExitStack() as stack:
        shown = Playground(browser, f"{cutter.address}/")
        stack.push_async_callback(shown.check)
        yield shown
