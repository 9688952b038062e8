"""The page of the HTTP interface, in Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamer.web.operations.table import OPERATIONS
from tests.browser.chromium import Browser, Page
from tests.browser.test_policy import ALLOWED
from tests.support import AnyClient


@pytest.fixture
async def docs(browser: Browser, client: AnyClient) -> AsyncIterator[Page]:
    """Return the open page; at the end check that it has obeyed its policy."""
    page = await browser.page()
    await page.open(str(client.make_url("/docs")))
    yield page
    assert page.errors == []
    assert await page.evaluate("window.violations") == []


async def test_the_page_shows_every_operation_and_type(docs: Page) -> None:
    shown = await docs.evaluate(
        "[...document.querySelectorAll('main section h3')].map((title) => title.innerText)"
    )
    for operation in OPERATIONS:
        assert f"{operation.method} {operation.path}" in shown
    assert "JobRequest" in shown
    assert "OutputEvent" in shown


async def test_every_link_leads_to_something(docs: Page) -> None:
    dead = await docs.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map((a) => a.hash.slice(1))"
        ".filter((id) => !document.getElementById(id))"
    )
    assert dead == []
    assert await docs.evaluate("document.querySelectorAll('a[href^=\"#\"]').length") > 50
    twice = await docs.evaluate(
        "[...document.querySelectorAll('[id]')].map((e) => e.id)"
        ".filter((id, at, all) => all.indexOf(id) !== at)"
    )
    assert twice == []


async def test_the_style_is_loaded_and_nothing_is_asked_of_another_host(
    docs: Page, client: AnyClient
) -> None:
    assert await docs.evaluate("getComputedStyle(document.body).display") == "grid"
    assert [url for url in docs.requests if not url.startswith(str(client.make_url("/")))] == []


async def test_no_script_is_needed_and_the_policy_is_that_of_the_playground(
    client: AnyClient,
) -> None:
    async with client.get("/docs") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert dict(part.strip().split(" ", 1) for part in policy.split(";")) == ALLOWED
    assert "<script" not in text
    assert " style=" not in text


async def test_a_narrow_window_has_no_sideways_scrolling(
    browser: Browser, client: AnyClient
) -> None:
    page = await browser.page(width=390, height=800)
    await page.open(str(client.make_url("/docs")))
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
