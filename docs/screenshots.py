"""Take the pictures of the playground for the documents: ``python docs/screenshots.py``.

It starts a service, drives Chromium through the states of the page in both themes, at the width of
a desktop and of a phone, and writes small PNGs into docs/. Look at them after a change of the page.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp.test_utils import TestServer

DOCS: Final = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import streamer  # noqa: E402 - found beside this folder
from tests.browser.chromium import Browser, Page, chromium  # noqa: E402

SIZES: Final = {"desktop": (1280, 800), "phone": (390, 844)}
THEMES: Final = ("light", "dark")
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


async def choose_example(page: Page, title: str) -> None:
    await page.evaluate(f"""{{
        const choice = document.querySelector("#example");
        const titles = [...choice.options].map((option) => option.text);
        choice.selectedIndex = titles.indexOf({json.dumps(title)});
        choice.dispatchEvent(new Event("change"));
    }}""")


async def show_run(page: Page) -> None:
    """A program that has run: colours, both streams, a verdict."""
    await page.evaluate("document.querySelector('#run').click()")
    await page.until("document.querySelector('#verdict').textContent !== ''")


async def show_files(page: Page) -> None:
    """Several files, with the settings open."""
    await choose_example(page, "Python: several files")
    await page.evaluate("document.querySelector('#more').open = true")
    await page.until("document.querySelectorAll('[role=tab]').length === 2")


SHOW: Final[dict[str, Callable[[Page], Awaitable[None]]]] = {"run": show_run, "files": show_files}


async def take(browser: Browser, address: str) -> None:
    """Take a picture of each state in each size and theme."""
    for size, (width, height) in SIZES.items():
        for theme in THEMES:
            for state, show in SHOW.items():
                page = await browser.page(width=width, height=height)
                await page.prefer(theme)
                await page.open(address)
                await page.until("!document.querySelector('#highlighted').hidden")
                # The versions of the languages, which their tools are asked for.
                await page.until("/\\d/.test(document.querySelector('#language').innerText)")
                await show(page)
                await page.evaluate("new Promise((done) => setTimeout(done, 400))")
                await page.screenshot(DOCS / f"playground-{state}-{size}-{theme}.png")


async def main() -> None:
    """Serve the page, and take the pictures."""
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        sys.exit("docs/screenshots.py: Chromium is missing: install it, as for `make test`")
    app = streamer.create_app({"server": {"drain_s": 0}})
    with tempfile.TemporaryDirectory() as profile, chromium(executable, Path(profile)) as protocol:
        async with TestServer(app) as server, Browser.connect(protocol) as browser:
            await take(browser, str(server.make_url("/")))


if __name__ == "__main__":
    asyncio.run(main())
