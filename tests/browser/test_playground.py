"""The page at / in Chromium: each promised feature, used as a person would."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from tests.browser.chromium import Browser, Page
from tests.browser.conftest import PROGRAM, Playground
from tests.conftest import Start
from tests.interop.cutter import Cutter, cutting
from tests.interop.nginx import proxied
from tests.support import AnyClient

PACED = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
for number in range(5):
    os.write(1, b"line %d\\n" % number)
    signal.sigwait([signal.SIGUSR1])
"""
"""A program that waits for input after each line, until the test has seen the line."""


async def go_on(client: AnyClient, job_id: str) -> None:
    async with client.post(f"/api/jobs/{job_id}/signal", json={"signal": "SIGUSR1"}) as response:
        assert response.status == 202


async def sees(page: Page, number: int) -> None:
    """Wait until a page shows the lines of the paced program up to a number, each once."""
    lines = json.dumps([f"line {n}\n" for n in range(number + 1)], separators=(",", ":"))
    await page.until(
        "JSON.stringify([...document.querySelectorAll('#output > .line')]"
        f".map((line) => line.textContent)) === {json.dumps(lines)}"
    )


def style_of(selector: str, name: str, pseudo: str = "") -> str:
    return f"getComputedStyle(document.querySelector('{selector}'), '{pseudo}').{name}"


async def test_output_is_live_and_the_verdict_comes_last(
    playground: Playground, client: AnyClient
) -> None:
    page = await playground.open()
    job_id = await playground.run(page, PACED)
    for number in range(5):
        await sees(page, number)
        assert await page.evaluate("document.querySelector('#state').textContent") == "running"
        assert await page.evaluate("document.querySelector('#verdict').textContent") == ""
        await go_on(client, job_id)
    assert await playground.verdict(page) == "finished"
    facts = await page.evaluate("document.querySelector('#facts').innerText")
    assert {"exit code", "duration", "CPU", "memory"} <= set(
        facts.replace("\n", "|").replace("\t", "|").split("|")
    ), facts


async def test_both_streams_are_told_apart_and_colours_shown(playground: Playground) -> None:
    page = await playground.open()
    await playground.run(
        page,
        "import os\n"
        "os.write(1, b'to \\x1b[31mred\\x1b[0m and \\x1b[1;48;5;208mbold\\x1b[0m\\n')\n"
        "os.write(2, b'to err\\n')\n"
        "raise SystemExit(3)",
    )
    assert await playground.verdict(page) == "failed with exit code 3"
    assert sorted(await playground.lines(page)) == [
        ["stderr", "to err"],
        ["stdout", "to red and bold"],
    ]
    assert await page.evaluate(style_of(".line.stderr", "content", "::before")) == (
        '"err" / "standard error: "'
    )
    plain, marked = [
        await page.evaluate(style_of(f".line.{name}", "boxShadow")) for name in ("stdout", "stderr")
    ]
    assert plain == "none" != marked
    red = await page.evaluate(style_of(".line.stdout .fg-1", "color"))
    assert red == "rgb(179, 38, 30)"
    assert await page.evaluate(style_of(".line.stdout .bold", "backgroundColor")) == (
        "rgb(255, 135, 0)"
    )
    assert await page.evaluate(style_of(".line.stdout .bold", "color")) == "rgb(0, 0, 0)"
    assert await page.evaluate("document.querySelector('#verdict').dataset.tone") == "bad"


async def test_cancel(playground: Playground, client: AnyClient) -> None:
    page = await playground.open()
    await playground.run(page, PACED)
    await sees(page, 0)
    await page.evaluate("document.querySelector('#cancel').click()")
    assert await playground.verdict(page) == "cancelled"
    # And the next one runs.
    job_id = await playground.run(page, PACED)
    await sees(page, 0)
    await go_on(client, job_id)
    await sees(page, 1)


async def test_the_sandbox_is_chosen_from_what_is_offered(
    playground: Playground, client: AnyClient
) -> None:
    async with client.get("/api/sandboxes") as response:
        offered = (await response.json())["sandboxes"]
    page = await playground.open()
    options = await page.evaluate(
        "[...document.querySelector('#sandbox').options].map((o) => [o.label, o.disabled])"
    )
    assert [label.partition(":")[0] for label, _ in options] == [one["name"] for one in offered]
    assert [not disabled for _, disabled in options] == [
        one["available"] and one["selectable"] for one in offered
    ]
    await page.evaluate("document.querySelector('#sandbox').value = 'plain'")
    await playground.run(page, "print(1)")
    assert await playground.verdict(page) == "finished"
    assert "sandbox\nplain" in await page.evaluate("document.querySelector('#facts').innerText")


@pytest.mark.parametrize("away", [False, True], ids=["cut", "restart"])
async def test_a_lost_connection_is_shown_and_survived(
    playground: Playground, client: AnyClient, cutter: Cutter, *, away: bool
) -> None:
    page = await playground.open()
    await page.evaluate("""{
        window.told = [];
        const chip = document.querySelector("#connection");
        new MutationObserver(() => window.told.push(chip.textContent))
            .observe(chip, { childList: true });
    }""")
    job_id = await playground.run(page, PACED)
    await sees(page, 0)
    await go_on(client, job_id)
    await sees(page, 1)
    if away:
        await cutter.down()
        await page.until("told.length > 0")
        await go_on(client, job_id)  # written while nobody can read
        await cutter.up()
    else:
        asked = len(cutter.streams)
        cutter.cut()
        await cutter.until_streams(asked + 1)
        await go_on(client, job_id)
    await sees(page, 2)
    told = await page.evaluate("told")
    # queued, preparing, running and two lines: five events.
    assert told[0] == "connection lost, resuming after event 5…"
    assert await page.until("document.querySelector('#connection').textContent === ''")
    for number in (3, 4):
        await go_on(client, job_id)
        await sees(page, number)
    await go_on(client, job_id)
    assert await playground.verdict(page) == "finished"


async def test_a_proxy_that_says_502_is_survived(
    playground: Playground, start: Start, tmp_path: Path
) -> None:
    client = await start(
        auth={"anonymous": True}
    )  # requests through a proxy are refused without a token
    async with (
        cutting("127.0.0.1", int(client.port or 0)) as cutter,
        proxied(cutter.port, tmp_path) as address,
    ):
        playground.address = f"{address}/"
        page = await playground.open()
        job_id = await playground.run(page, PACED)
        await sees(page, 0)
        await cutter.down()
        # The stream, the browser's own next attempt, and the page's question why.
        await page.until("document.querySelector('#connection').textContent !== ''")
        await go_on(client, job_id)
        await cutter.up()
        await sees(page, 1)
        await page.evaluate("document.querySelector('#cancel').click()")
        assert await playground.verdict(page) == "cancelled"


async def test_a_link_is_followed_live_and_after_the_end(
    playground: Playground, client: AnyClient
) -> None:
    mine = await playground.open()
    job_id = await playground.run(mine, PACED)
    await sees(mine, 0)
    await go_on(client, job_id)
    await sees(mine, 1)
    link = await mine.evaluate("location.href")
    assert link == f"{playground.address}#job={job_id}"

    theirs = await playground.open(f"#job={job_id}")
    await sees(theirs, 1)  # from the beginning, also what was before
    assert await theirs.until("document.querySelector('#watched').textContent.includes('python')")
    assert not await theirs.evaluate("document.querySelector('#watching').hidden")
    for number in (2, 3, 4):
        await go_on(client, job_id)
        await sees(mine, number)
        await sees(theirs, number)
    await go_on(client, job_id)
    assert await playground.verdict(mine) == await playground.verdict(theirs) == "finished"

    late = await playground.open(f"#job={job_id}")
    assert await playground.verdict(late) == "finished"
    await sees(late, 4)
    # The writer's own tab still has the program after a reload.
    async with mine.loading():
        await mine.call("Page.reload")
    await sees(mine, 4)
    assert "sigwait" in await mine.until(PROGRAM)


MARKUP = r"""
import sys
hostile = (
    "<img src=x onerror=hacked()>",
    "<script>hacked()</script><style>*{display:none}</style>",
    "</div></pre><iframe srcdoc='<script>parent.hacked()</script>'></iframe>",
    "&lt;b&gt; &#60;i&#62; javascript:hacked()",
    "\x1b]0;another title\x07\x1b]2;another title\x1b\\after a title",
    "\x1b]52;c;aGFja2Vk\x07after a clipboard",
    "\x1b]8;;javascript:hacked()\x1b\\a link\x1b]8;;\x1b\\",
    "\x1b[?1049h\x1b[5;5Hstill here",
    "\x1bP1;2|device\x1b\\\x1b_app\x1b\\\x1b^private\x1b\\done",
    "\x1b[38;2;1;2;3;999;;mcolour",
)
for line in hostile:
    print(line)
    print(line, file=sys.stderr)
"""

SHOWN = [
    "<img src=x onerror=hacked()>",
    "<script>hacked()</script><style>*{display:none}</style>",
    "</div></pre><iframe srcdoc='<script>parent.hacked()</script>'></iframe>",
    "&lt;b&gt; &#60;i&#62; javascript:hacked()",
    "after a title",
    "after a clipboard",
    "a link",
    "still here",
    "done",
    "colour",
]


async def test_output_never_becomes_markup(playground: Playground) -> None:
    page = await playground.open()
    await page.evaluate("""{
        window.hacks = 0;
        window.hacked = () => { window.hacks += 1; };
        navigator.clipboard.writeText = window.hacked;
        window.made = new Set();
        new MutationObserver((records) => {
            for (const { addedNodes } of records) {
                for (const node of addedNodes) {
                    if (node.querySelectorAll) {
                        for (const each of [node, ...node.querySelectorAll("*")]) {
                            window.made.add(each.localName);
                        }
                    }
                }
            }
        }).observe(document.querySelector("#screen"), { childList: true, subtree: true });
    }""")
    title = await page.evaluate("document.title")
    await playground.run(page, MARKUP)
    assert await playground.verdict(page) == "finished"
    lines = await playground.lines(page)
    for stream in ("stdout", "stderr"):
        assert [text for kind, text in lines if kind == stream] == SHOWN
    assert set(await page.evaluate("[...made]")) <= {"div", "span"}
    assert await page.evaluate("hacks") == 0
    assert await page.evaluate("document.title") == title


async def test_below_a_prefix(browser: Browser, tmp_path: Path) -> None:
    host = web.Application()
    config = {"sandbox": {"backend": "bwrap"}, "server": {"drain_s": 0}}
    streamer.setup(host, config, prefix="/code")
    async with TestServer(host) as server:
        playground = Playground(browser, str(server.make_url("/code/")))
        page = await playground.open()
        await playground.run(page, "print('mounted')")
        assert await playground.verdict(page) == "finished"
        assert await playground.lines(page) == [["stdout", "mounted"]]
        assert [url for url in page.requests if not url.startswith(playground.address)] == []
        await playground.check()


async def test_below_a_prefix_of_nginx_only(browser: Browser, start: Start, tmp_path: Path) -> None:
    client = await start(auth={"anonymous": True})
    async with proxied(int(client.port or 0), tmp_path, prefix="/deep/er/") as address:
        playground = Playground(browser, f"{address}/deep/er/")
        page = await playground.open()
        job_id = await playground.run(page, "print('proxied')")
        assert await playground.verdict(page) == "finished"
        late = await playground.open(f"#job={job_id}")
        assert await playground.verdict(late) == "finished"
        assert await playground.lines(late) == [["stdout", "proxied"]]
        await playground.check()


async def test_the_keyboard_is_enough(playground: Playground) -> None:
    page = await playground.open()
    await playground.write(page, "print(input())")
    focused = "document.activeElement.id || document.activeElement.localName"
    await page.evaluate("document.querySelector('#run').focus()")
    order = []
    for _ in range(8):
        await page.press("Tab")
        order.append(await page.evaluate(focused))
    assert order[:4] == ["cancel", "language", "example", "share-program"]
    assert order[4].startswith("file-")
    assert order[5:] == ["add", "rename", "highlighted"]
    # In the program Tab indents; Escape lets it leave.
    await page.press("Escape")
    await page.press("Tab")
    assert await page.evaluate(focused) == "summary"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await page.evaluate(outline) == "solid"
    await page.press("Enter")
    await page.press("Tab")
    await page.press("Tab")
    assert await page.evaluate(focused) == "stdin"
    await page.type("typed\n")
    await page.evaluate("document.querySelector('#run').focus()")
    await page.press("Enter")
    assert await playground.verdict(page) == "finished"
    assert await playground.lines(page) == [["stdout", "typed"]]
    # The focus is still where it was: nothing that happened took it.
    assert await page.evaluate(focused) == "run"


@pytest.mark.parametrize("width", [320, 1400])
async def test_nothing_is_cut_off(playground: Playground, width: int) -> None:
    page = await playground.open(width=width, height=640)
    await playground.run(page, "print('x' * 500)")
    assert await playground.verdict(page) == "finished"
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(overflow) == 0
    # The output is in sight, also where it is below the form.
    seen = "document.querySelector('#screen').getBoundingClientRect()"
    assert await page.evaluate(f"{seen}.top < 600 && {seen}.bottom > 40")
    for scheme, ground in (("light", "rgb(253, 253, 252)"), ("dark", "rgb(15, 20, 22)")):
        await page.prefer(scheme)
        assert await page.evaluate(style_of("#box", "backgroundColor")) == ground


async def problem(page: Page) -> str:
    said: str = await page.until(
        "!document.querySelector('#problem').hidden"
        " && document.querySelector('#problem').textContent"
    )
    return said


async def test_refusals_are_told(playground: Playground, cutter: Cutter) -> None:
    page = await playground.open("#job=nosuchjob")
    assert "gone" in await problem(page)
    await page.evaluate("document.querySelector('#own').click()")
    await playground.write(page, "print(1)")
    await page.evaluate("document.querySelector('#args').value = '\\0'")
    await page.press("Enter", ctrl=True)
    assert "$.args[0]" in await problem(page)
    await page.evaluate("document.querySelector('#args').value = ''")
    await cutter.down()
    await page.press("Enter", ctrl=True)
    assert "cannot be reached" in await page.until(
        "document.querySelector('#problem').textContent.includes('reached')"
        " && document.querySelector('#problem').textContent"
    )
    await cutter.up()
    await page.press("Enter", ctrl=True)
    assert await playground.verdict(page) == "finished"
    assert await page.evaluate("document.querySelector('#problem').hidden")


async def test_a_token_is_asked_for_and_kept_for_the_tab(browser: Browser, start: Start) -> None:
    token = {"sha256": hashlib.sha256(b"secret").hexdigest(), "tenant": "me"}
    client: Any = await start(auth={"tokens": [token]})
    playground = Playground(browser, f"http://127.0.0.1:{client.port}/")
    page = await browser.page()
    await page.open(playground.address)
    await page.until("document.activeElement.id === 'token'")
    await page.type("secret")
    async with page.loading():
        await page.press("Enter")
    await page.until("document.querySelector('#language').value !== ''")
    await playground.run(page, "print('mine')")
    assert await playground.verdict(page) == "finished"
    assert "secret" not in await page.evaluate("location.href")
    # Another tab has to ask again, unless the browser was told to remember it.
    second = await browser.page(beside=page)
    await second.open(playground.address)
    await second.until("document.activeElement.id === 'token'")
    await second.type("secret")
    await second.evaluate("document.querySelector('#remember').checked = true")
    async with second.loading():
        await second.press("Enter")
    await second.until("document.querySelector('#language').value !== ''")
    third = await browser.page(beside=page)
    await third.open(playground.address)
    await third.until("document.querySelector('#language').value !== ''")
    async with third.loading():
        await third.evaluate("document.querySelector('#forget-token').click()")
    await third.until("document.activeElement.id === 'token'")
    assert await third.evaluate("document.querySelector('#refused').hidden")
    assert page.errors == []
