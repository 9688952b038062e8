"""What the page is made of, and what its policy lets it do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser.conftest import Playground
from tests.support import AnyClient

STATIC = Path(__file__).parents[2] / "streamer" / "web" / "static"
SERVED = sorted(path for path in STATIC.rglob("*") if path.is_file())
FILES = [path for path in SERVED if path.parent.name != "bundle"]
"""Those that are written by hand."""

ALLOWED = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}


async def test_the_policy_allows_the_page_itself_and_nothing_else(client: AnyClient) -> None:
    for target in ("/", *(f"/static/playground/{path.relative_to(STATIC)}" for path in SERVED)):
        if target.endswith("index.html"):
            continue
        async with client.get(target) as response:
            assert response.status == 200
            policy = response.headers["Content-Security-Policy"]
            assert dict(part.strip().split(" ", 1) for part in policy.split(";")) == ALLOWED
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STATIC)))
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(path: Path) -> None:
    # A name space, which has the form of an address and is none.
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?://[^\s\"']+", text) == []
    if path.suffix == ".html":
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text) == []
        assert re.findall(r"<script\b(?![^>]*\bsrc=)", text) == []
    if path.suffix == ".js":
        ways_to_markup = (
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
        )
        assert re.findall(ways_to_markup, text) == []


async def test_the_browser_itself_refuses_the_way_to_markup(playground: Playground) -> None:
    page = await playground.open()
    # If the page had a mistake, the policy would stop it here.
    for attempt in (
        "document.querySelector('#output').innerHTML = '<img src=x onerror=hacked()>'",
        "document.querySelector('#output').insertAdjacentHTML('beforeend', '<b>x</b>')",
        "document.write('x')",
        "document.createElement('script').text = 'hacked()'",
        "document.body.setAttribute('onclick', 'hacked()')",
        "setTimeout('hacked()', 0)",
    ):
        name = await page.evaluate(
            f"(() => {{ try {{ {attempt} }} catch (e) {{ return e.name }} }})()"
        )
        assert name == "TypeError", attempt
    assert len(await page.evaluate("window.violations")) >= 6
    await page.evaluate("window.violations.length = 0")
    page.errors.clear()


async def test_nothing_is_asked_of_another_host(playground: Playground) -> None:
    page = await playground.open()
    await playground.run(page, "print('https://example.org/ //example.org')")
    assert await playground.verdict(page) == "finished"
    assert page.requests
    assert [url for url in page.requests if not url.startswith(playground.address)] == []
