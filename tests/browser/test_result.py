"""The result side of the page: what one types, which limit ended it, and the way back."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import SELECTED_LINE, Playground
from tests.conftest import Start
from tests.support import AnyClient

ASKS = """
import sys
name = input("name? ")
print("hello", name)
print(len(sys.stdin.read().split()), "more")
"""


def shown(selector: str) -> str:
    return f"document.querySelector('{selector}').textContent"


async def answer(page: Page, text: str) -> None:
    await page.evaluate("document.querySelector('#line').focus()")
    await page.type(text)
    await page.press("Enter")


async def until_lines(page: Page, *lines: str) -> None:
    joined = "\\n".join(lines)
    await page.until(
        "[...document.querySelectorAll('#output > .line')]"
        f".map((line) => line.textContent.replace(/\\n$/, '')).join('\\n') === '{joined}'"
    )


async def test_one_types_what_the_program_asks_for(
    playground: Playground, client: AnyClient
) -> None:
    page = await playground.open(width=390, height=640)
    first = await playground.run(page, ASKS)
    await until_lines(page, "name? ")
    await answer(page, "Zoé")
    await until_lines(page, "name? Zoé", "hello Zoé")
    assert await page.evaluate(shown(".typed")) == "Zoé"
    # A reload goes on with the same program, and nothing is typed twice.
    async with page.loading():
        await page.call("Page.reload")
    await until_lines(page, "name? Zoé", "hello Zoé")
    await page.until("!document.querySelector('#typing').hidden")
    await answer(page, "one two")
    await page.type("three")
    await page.evaluate("document.querySelector('#eof').click()")
    assert await playground.verdict(page) == "finished"
    await until_lines(page, "name? Zoé", "hello Zoé", "one two", "three", "3 more")
    # The line is gone, and the keyboard's focus is where the output is.
    assert await page.evaluate("document.querySelector('#typing').hidden")
    assert await page.evaluate("document.activeElement.id") == "box"
    # Given input ends behind what was given; nobody waits, and there is nothing to type into.
    await page.evaluate("document.querySelector('#stdin').value = 'Ada'")
    second = await playground.run(page, ASKS)
    assert await playground.verdict(page) == "finished"
    await until_lines(page, "name? hello Ada", "0 more")
    async with client.get(f"/api/jobs/{second}") as response:
        assert not (await response.json())["interactive"]
    # "Back" leads to the run before, with its program and what was typed to it.
    await page.evaluate("document.querySelector('#stdin').value = ''")
    await page.evaluate("history.back()")
    await until_lines(page, "name? Zoé", "hello Zoé", "one two", "three", "3 more")
    assert await page.evaluate("location.hash") == f"#job={first}"


async def test_the_limit_that_ended_it_is_named(playground: Playground) -> None:
    page = await playground.open()
    await page.evaluate(
        "window.told = [];"
        "new MutationObserver(() => told.push(document.querySelector('#clock').textContent))"
        ".observe(document.querySelector('#clock'), { childList: true })"
    )
    await playground.run(page, "kept = []\nwhile True: kept.append(bytearray(9_000_000))")
    assert await playground.verdict(page) == "stopped: memory limit of 256 MiB reached"
    assert "of 256 MiB" in await page.evaluate(shown("#facts"))
    await playground.run(page, "input()")
    await page.until("told.at(-1) === '1 s of 60 s'")
    assert await page.evaluate(shown("#state")) == "running"
    await page.evaluate("document.querySelector('#cancel').click()")
    assert await playground.verdict(page) == "cancelled"
    assert await page.evaluate(shown("#clock")) == ""


FAULTY = """
import sys
print("Needle in \\x1b[31mhay\\x1b[0m")
for number in range(300): print("straw", number)
print("needle")
print("hello:5 <b>", file=sys.stderr)
raise ValueError
"""


async def test_the_output_leads_to_the_line_and_is_searched_and_taken_along(
    playground: Playground,
) -> None:
    page = await playground.open(width=1280, height=800)
    await page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    await playground.run(page, FAULTY)
    assert await playground.verdict(page) == "failed with exit code 1"
    # "line 7" of the traceback leads to the program.
    assert await page.evaluate(
        "[...document.querySelectorAll('.place')].map((place) => place.textContent)"
    ) == ["line 7"]
    await page.evaluate("document.querySelector('.place').click()")
    assert await page.evaluate(SELECTED_LINE) == "raise ValueError"
    # Search: found by its letters, over a change of colour, and brought into sight.
    await page.evaluate("document.querySelector('#find').click()")
    await page.type("NEEDLE")
    assert await page.until(shown("#matches")) == "2 found"
    for place in ("1 of 2", "2 of 2", "1 of 2"):
        await page.press("Enter")
        assert await page.evaluate(shown("#matches")) == place
    marked = "[...CSS.highlights.get('{}')].map(String)"
    assert await page.evaluate(marked.format("found-now")) == ["Needle"]
    assert await page.evaluate(marked.format("found")) == ["needle"]
    top = "document.querySelector('#output > .line').getBoundingClientRect().top"
    assert await page.evaluate(f"{top} > 0")
    await page.evaluate("document.querySelector('#sought').select()")
    await page.type("n hay")
    await page.press("Enter")
    assert await page.evaluate(marked.format("found-now")) == ["n hay"]
    await page.press("Escape")
    assert await page.evaluate("document.activeElement.id") == "find"
    assert await page.evaluate("CSS.highlights.get('found-now').size") == 0
    # Copied as it was written, saved from the service.
    await page.evaluate("document.querySelector('#copy').click()")
    copied = await page.until("window.copied")
    assert copied.startswith("Needle in hay\nstraw 0\n")
    assert "hello:5 <b>\n" in copied
    stdout = await page.evaluate(
        "fetch(document.querySelector('#stdout').href).then(r => r.text())"
    )
    assert stdout.startswith("Needle in \x1b[31mhay\x1b[0m\n")
    assert stdout.endswith("needle\n")
    # Going on after a clear screen, the frames do not pile up.
    frames = "for n in range(5): print(f'\\x1b[H\\x1b[2Jframe {n}\\n\\x1b[Hf', end='', flush=True)"
    await playground.run(page, frames)
    assert await playground.verdict(page) == "finished"
    await until_lines(page, "frame 4")


PAUSES = """
import os, time
for n in range(3):
    os.write(1, b"step %d\\n" % n)
    if n < 2: time.sleep(0.4)
"""


async def test_a_finished_run_is_replayed(playground: Playground) -> None:
    page = await playground.open(width=390, height=800)
    await playground.run(page, PAUSES)
    assert await playground.verdict(page) == "finished"
    assert await page.evaluate("document.querySelector('#slider').value === slider.max")
    # By the keyboard: back to the start, on until there is a line, and to the end.
    await page.evaluate("document.querySelector('#slider').focus()")
    await page.press("Home")
    await page.until("document.querySelector('#output').childElementCount <= 1")
    assert (await page.evaluate("slider.getAttribute('aria-valuetext')")).startswith("0.0 s of ")
    counted = (
        "new Promise((drawn) => setTimeout(() => drawn(output.childElementCount), 30))"  # a frame
    )
    while not (lines := await page.evaluate(counted)):
        await page.press("ArrowRight")
    assert lines == 1
    await until_lines(page, "step 0")
    await page.press("End")
    await until_lines(page, "step 0", "step 1", "step 2")
    # Played from the start, with the pauses of the run.
    await page.evaluate(
        "window.seen = [];"
        "new MutationObserver(() => { const n = document.querySelectorAll('#output > .line').length;"
        " if (seen.at(-1) !== n) seen.push(n); }).observe(output, { childList: true });"
        "document.querySelector('#play').click()"
    )
    assert await page.evaluate(shown("#play")) == "Pause"
    await page.until("document.querySelector('#play').textContent === 'Replay'")
    await until_lines(page, "step 0", "step 1", "step 2")
    assert (await page.evaluate("seen"))[-3:] == [1, 2, 3]
    assert await page.evaluate(shown("#verdict")) == "finished"
    # The next run is live again.
    await playground.run(page, "print(1)")
    assert await playground.verdict(page) == "finished"
    await until_lines(page, "1")
    assert await page.evaluate("document.querySelector('#replay').hidden")


async def test_a_link_opens_a_run_to_who_has_no_token(browser: Browser, start: Start) -> None:
    token = {"sha256": hashlib.sha256(b"secret").hexdigest(), "tenant": "me"}
    client: Any = await start(auth={"tokens": [token]})
    playground = Playground(browser, f"http://127.0.0.1:{client.port}/")
    mine = await browser.page()
    await mine.open(playground.address)
    await mine.until("document.activeElement.id === 'token'")
    await mine.type("secret")
    async with mine.loading():
        await mine.press("Enter")
    await mine.until("document.querySelector('#language').value !== ''")
    await mine.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    await playground.run(mine, "open('left.csv', 'w').write('x')\nprint('mine')")
    assert await playground.verdict(mine) == "finished"
    await mine.evaluate("document.querySelector('#share').click()")
    said = await mine.until("document.querySelector('#shared').textContent")
    assert re.fullmatch(r"Link copied\. It works until .*\d\d:\d\d( [AP]M)?\.", said)
    link = await mine.evaluate("copied")
    assert "secret" not in link
    theirs = await browser.page()
    await theirs.open(link)
    assert await playground.verdict(theirs) == "finished"
    assert await playground.lines(theirs) == [["stdout", "mine"]]
    assert await theirs.evaluate("document.querySelector('#access').hidden")
    assert await theirs.evaluate("document.querySelector('#editor-pane').hidden")
    href = await theirs.until("document.querySelector('#files a')?.href")
    assert await theirs.evaluate(f"fetch({href!r}).then((r) => r.text())") == "x"
    # The grant is for reading this run only; a broken one says so, and asks nobody for a token.
    await theirs.open("about:blank")
    await theirs.open(link[:-2])
    await theirs.until("document.querySelector('#problem').textContent.includes('another one')")
    assert await theirs.evaluate("document.querySelector('#access').hidden")
    assert theirs.errors == mine.errors == []
