"""The playground in several tabs at once, and before a token is given."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from tests.browser.chromium import PATIENCE_S, Browser
from tests.browser.conftest import Playground
from tests.browser.test_playground import PACED, go_on, sees
from tests.conftest import Start
from tests.support import AnyClient, follow, received, verdict
from tests.web import until_output


async def test_any_number_of_tabs_follow_runs(playground: Playground) -> None:
    """A browser opens at most six connections to a host, so six streams would use them all."""
    first = await playground.open()
    job_id = await playground.run(first, PACED)
    await sees(first, 0)
    for _ in range(6):
        tab = await playground.open(f"#job={job_id}", beside=first)
        await sees(tab, 0)
    await first.call("Page.bringToFront")
    await first.evaluate("document.querySelector('#cancel').click()")
    assert await playground.verdict(first) == "cancelled"


async def test_a_tab_out_of_sight_reads_nothing_and_misses_nothing(
    playground: Playground, client: AnyClient
) -> None:
    page = await playground.open()
    job_id = await playground.run(page, PACED)
    await sees(page, 0)
    other = await playground.open(beside=page)
    await until_streams(client, 0)
    for number in (1, 2):
        await go_on(client, job_id)
        await until_line(client, job_id, number)
    await page.call("Page.bringToFront")
    await sees(page, 2)
    await other.call("Page.bringToFront")
    await until_streams(client, 0)
    for number in (3, 4):
        await go_on(client, job_id)
        await until_line(client, job_id, number)
    await go_on(client, job_id)
    assert verdict(await follow(client, job_id))["exitCode"] == 0
    assert await page.evaluate("document.querySelector('#verdict').textContent") == ""
    await page.call("Page.bringToFront")
    assert await playground.verdict(page) == "finished"
    await sees(page, 4)


async def until_streams(client: AnyClient, number: int) -> None:
    """Wait until this many streams are open."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with client.get("/healthz") as response:
                if (await response.json())["streams"] == number:
                    return


async def until_line(client: AnyClient, job_id: str, number: int) -> None:
    """Wait until the paced program has written a line."""
    async with client.get(f"/api/stream/{job_id}") as response:
        await until_output(received(response), f"line {number}\n")


async def test_without_a_token_there_is_only_the_question(browser: Browser, start: Start) -> None:
    token = {"sha256": hashlib.sha256(b"secret").hexdigest(), "tenant": "me"}
    client: Any = await start(auth={"tokens": [token]})
    job = {"language": "python", "code": "print('shared')"}
    headers = {"Authorization": "Bearer secret"}
    async with client.post("/api/execute", json=job, headers=headers) as response:
        job_id = (await response.json())["jobId"]
    page = await browser.page(width=1280, height=800)
    for fragment in ("", f"#job={job_id}"):
        await page.open("about:blank")
        await page.open(f"http://127.0.0.1:{client.port}/{fragment}")
        await page.until("document.activeElement.id === 'token'")
        assert await page.evaluate(SHOWN_PARTS) == ["access"]
        # One box in the column of the rest, no taller than what is in it; nothing is wrong yet.
        box = await page.evaluate(
            "(({ left, width, height }) => ({ left, width, height }))"
            "(document.querySelector('#access').getBoundingClientRect())"
        )
        assert box["left"] < 100
        assert box["width"] <= 500
        assert box["height"] < 300
        assert not await page.evaluate("document.body.innerText.includes('Bearer')")
        assert await page.evaluate("document.querySelector('#refused').hidden")
    await page.type("wrong")
    async with page.loading():
        await page.press("Enter")
    await page.until("document.querySelector('#refused').hidden === false")
    assert await page.evaluate(SHOWN_PARTS) == ["access"]
    await page.type("secret")
    async with page.loading():
        await page.press("Enter")
    # Each try is remembered in the place of the last, and the link that was opened is followed.
    assert await Playground.verdict(page) == "finished"
    assert await page.evaluate(SHOWN_PARTS) == ["watching", "result-pane"]
    assert page.errors == []


SHOWN_PARTS = (
    "[...document.querySelectorAll('main > *')]"
    ".filter((part) => part.offsetParent !== null).map((part) => part.id)"
)


async def test_what_cannot_be_chosen_says_why(browser: Browser, start: Start) -> None:
    client: Any = await start()
    page = await Playground(browser, f"http://127.0.0.1:{client.port}/").open()
    untold = await page.evaluate(
        "[...document.querySelectorAll('option')].filter((o) => o.disabled && o.title === '')"
        ".map((o) => o.label)"
    )
    assert untold == []
    assert "sandbox.allow" in await page.evaluate(
        "[...document.querySelectorAll('#sandbox option')].map((o) => o.title).join()"
    )
