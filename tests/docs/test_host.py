"""The example of a host application: its login, its database, its page, and its two mounts."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import TestServer

from tests.browser.chromium import Browser
from tests.support import received, text, verdict

EXAMPLE = Path(__file__).parents[2] / "examples" / "host"
PROGRAM = {"language": "python", "code": "print(6 * 7)"}


@pytest.fixture
async def address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[[str], str]
) -> AsyncIterator[str]:
    """Start the host with two users; return its address."""
    need("bwrap")
    need("firejail")
    monkeypatch.syspath_prepend(EXAMPLE)
    webapp: Any = importlib.import_module("webapp")
    app = webapp.make_app(tmp_path / "host.sqlite")
    accounts = app[webapp.ACCOUNTS]
    accounts.add("ann", "of ann")
    accounts.add("bob", "of bob", staff=True)
    server = TestServer(app)
    await server.start_server()
    yield str(server.make_url("")).rstrip("/")
    await server.close()


def visitor(address: str) -> ClientSession:
    """Return a browser's session, in effect: one with cookies of its own."""
    return ClientSession(address, cookie_jar=CookieJar(unsafe=True))


async def log_in(session: ClientSession, name: str, password: str) -> int:
    form = {"name": name, "password": password}
    async with session.post("/login", data=form, allow_redirects=False) as response:
        return response.status


async def status(session: ClientSession, method: str, path: str, **more: Any) -> int:
    async with session.request(method, path, **more) as response:
        return response.status


async def test_users_run_programs_and_see_their_own_only(address: str) -> None:
    async with visitor(address) as ann, visitor(address) as bob:
        assert await status(ann, "GET", "/who") == 401
        assert await status(ann, "POST", "/run", data="print(1)") == 401
        for path in ("/code/api/jobs", "/staff/api/jobs"):
            assert await status(ann, "GET", path) == 401
        assert await log_in(ann, "ann", "of bob") == 401
        assert await log_in(ann, "nobody", "") == 401
        assert await log_in(ann, "ann", "of ann") == 303
        assert await log_in(bob, "bob", "of bob") == 303

        # Submitted from Python by the host's handler, streamed by the mount.
        async with ann.post("/run", data="print(6 * 7)") as response:
            run = await response.json()
        async with ann.get(run["watch"]) as response:
            events = [event async for event in received(response)]
        assert text(events) == "42\n"
        assert verdict(events)["reason"] == "exited"
        async with asyncio.timeout(30):
            while True:  # the database hears of it after the stream
                async with ann.get("/who") as response:
                    told = await response.json()
                if told["runs"][0]["verdict"]:
                    break
        assert told == {
            "name": "ann",
            "staff": False,
            "runs": [{"job": run["job"], "verdict": "exited"}],
        }
        assert await status(bob, "GET", run["watch"]) == 404
        assert await status(bob, "GET", f"/code/api/jobs/{run['job']}") == 404
        assert await status(ann, "GET", "/code/metrics") == 403

        # Two mounts, and a sandbox of its own behind each.
        wait = {"Prefer": "wait=30"}
        async with ann.post("/code/api/execute", json=PROGRAM, headers=wait) as response:
            result = (await response.json())["result"]
        assert (result["stdout"], result["sandbox"]) == ("42\n", "bwrap")
        assert await status(ann, "POST", "/staff/api/execute", json=PROGRAM) == 403
        async with bob.post("/staff/api/execute", json=PROGRAM, headers=wait) as response:
            result = (await response.json())["result"]
        assert (result["stdout"], result["sandbox"]) == ("42\n", "firejail")
        other_site = {"Origin": "https://example.org"}
        assert (
            await status(ann, "POST", "/code/api/execute", json=PROGRAM, headers=other_site) == 403
        )

        assert await status(ann, "POST", "/logout", allow_redirects=False) == 303
        assert await status(ann, "GET", "/code/api/jobs") == 401


async def test_a_person_logs_in_and_watches_a_program(address: str, browser: Browser) -> None:
    page = await browser.page(width=900, height=700)
    await page.open(f"{address}/")
    await page.until("!document.querySelector('#login').hidden")
    fill = "document.querySelector('[name={}]').value = {}"
    await page.evaluate(fill.format("name", json.dumps("ann")))
    await page.evaluate(fill.format("password", json.dumps("of ann")))
    async with page.loading():
        await page.evaluate("document.querySelector('#login button').click()")
    await page.until("!document.querySelector('#run').hidden")
    code = "import time\nprint('first', flush=True)\ntime.sleep(0.1)\nprint('<b>second</b>')"
    await page.evaluate(f"document.querySelector('#program').value = {json.dumps(code)}")
    await page.evaluate("document.querySelector('#go').click()")
    await page.until("document.querySelector('#verdict').textContent === 'exited'")
    shown = await page.evaluate("document.querySelector('#output').textContent")
    assert shown == "first\n<b>second</b>\n"
    await page.until("document.querySelectorAll('#runs li').length === 1")
    assert page.errors == []
