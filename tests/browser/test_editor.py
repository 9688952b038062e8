"""The editor side of the page at / in Chromium: writing, files, settings, links, what is kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import (
    HIGHLIGHTED,
    IN_PLAIN,
    PROGRAM,
    SELECTED_LINE,
    Playground,
    focus_program,
    paste_program,
)
from tests.conftest import Start
from tests.support import AnyClient

FOCUSED = "document.activeElement.id || document.activeElement.localName"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
TOLD = "document.querySelector('#told').textContent"


async def choose(page: Page, selector: str, value: str) -> None:
    await page.evaluate(f"""{{
        const choice = document.querySelector({json.dumps(selector)});
        choice.value = {json.dumps(value)};
        choice.dispatchEvent(new Event("change", {{ bubbles: true }}));
    }}""")


async def click(page: Page, selector: str) -> None:
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


async def press_keys(page: Page, text: str) -> None:
    """Type characters one by one, as a keyboard does."""
    for char in text:
        if char == "\n":
            await page.press("Enter")
        else:
            await page.call("Input.dispatchKeyEvent", type="char", text=char)


@asynccontextmanager
async def shown(playground: Playground, browser: Browser, *, plain: bool) -> AsyncIterator[Page]:
    """Open the page with its editor, or as it is where the bundle cannot be had."""
    page = await browser.page(width=1280, height=800)
    if plain:
        await page.call("Network.setBlockedURLs", urls=["*/bundle/*"])
    await page.open(playground.address)
    await page.until("document.querySelector('#language').value !== ''")
    if not plain:
        await page.until(f"!({IN_PLAIN})")
    yield page
    assert await page.evaluate("window.violations") == []


@pytest.mark.parametrize("plain", [False, True], ids=["highlighted", "plain"])
async def test_one_writes_as_in_an_editor(
    playground: Playground, browser: Browser, *, plain: bool
) -> None:
    async with shown(playground, browser, plain=plain) as page:
        assert await page.evaluate(IN_PLAIN) is plain
        await paste_program(page, "if True:")
        if not plain:
            await page.until(f"{HIGHLIGHTED}.shadowRoot.querySelector('.cm-line span') !== null")
        await press_keys(page, "\n")
        # CodeMirror knows that a block begins; a text area keeps what there is.
        await page.press("Tab") if plain else None
        await press_keys(page, "x = 1\nprint(x)")
        assert await page.evaluate(PROGRAM) == "if True:\n    x = 1\n    print(x)"
        await page.press("Tab", shift=True)
        assert await page.evaluate(PROGRAM) == "if True:\n    x = 1\nprint(x)"
        await page.press("Tab", shift=True)
        await page.press("a", ctrl=True)
        await page.press("Tab")
        assert await page.evaluate(PROGRAM) == "    if True:\n        x = 1\n    print(x)"
        await page.press("Tab", shift=True)
        # Escape and then Tab leaves, with Shift to the other side.
        await page.press("Escape")
        await page.press("Tab", shift=True)
        assert await page.evaluate(FOCUSED) == "rename"
        await focus_program(page)
        await page.press("Escape")
        await page.press("Tab")
        assert await page.evaluate(FOCUSED) == "summary"
        await page.press("Enter", ctrl=True)
        assert await playground.verdict(page) == "finished"
        assert await playground.lines(page) == [["stdout", "1"]]
        if not plain:
            root = f"{HIGHLIGHTED}.shadowRoot"
            number = f"getComputedStyle({root}.querySelector('.cm-line span')).color"
            assert await page.evaluate(number) != await page.evaluate(
                f"getComputedStyle({root}.querySelector('.cm-content')).color"
            )
            assert await page.evaluate(f"{root}.querySelector('.cm-lineNumbers').innerText")
            # All that came before the first key, as it was sent.
            assert (
                await page.evaluate(
                    "performance.getEntries().reduce((sum, e) => sum + (e.transferSize ?? 0), 0)"
                )
                < 300_000
            )


async def test_several_files_and_the_one_that_starts(
    playground: Playground, client: AnyClient
) -> None:
    page = await playground.open(width=390, height=800)
    await playground.write(page, "import shapes\nshapes.area(")
    await click(page, "#add")
    assert await page.evaluate("document.querySelector('#file-name').value") == "file2.py"
    assert await page.evaluate(FOCUSED) == "file-name"
    await page.press("a", ctrl=True)
    await page.type("../shapes.py")
    await page.press("Enter")
    assert "a path inside" in await page.evaluate(
        "document.querySelector('#naming-fault').textContent"
    )
    await page.press("a", ctrl=True)
    await page.type("lib/shapes.py")
    await page.press("Enter")
    await paste_program(page, "print('lib runs')\ndef area(): raise ValueError('no area')\n")
    tabs = "[...document.querySelectorAll('[role=tab]')].map((t) => [t.textContent, t.className])"
    assert await page.evaluate(tabs) == [["main.py", "entry"], ["lib/shapes.py", ""]]
    # By the keyboard: to the first tab and back, F2 renames.
    await page.evaluate("document.querySelector('[aria-selected=true]').focus()")
    await page.press("ArrowRight")
    assert "shapes.area(" in await page.evaluate(PROGRAM)
    await page.press("ArrowLeft")
    await page.press("F2")
    await page.press("a", ctrl=True)
    await page.type("shapes.py")
    await page.press("Enter")
    assert "lib runs" in await page.evaluate(PROGRAM)
    # The file that starts moves, and is what is sent.
    await click(page, "#start")
    job_id = await _run(page)
    assert await playground.verdict(page) == "finished"
    assert await playground.lines(page) == [["stdout", "lib runs"]]
    await page.evaluate("document.querySelector('[role=tab]').click()")
    await paste_program(page, "import shapes\n\nshapes.area()\n")
    await click(page, "#start")
    assert await _run(page) != job_id
    assert await playground.verdict(page) == "failed with exit code 1"
    # A place in the other file leads there.
    await page.evaluate("[...document.querySelectorAll('.place')].at(-1).click()")
    assert await page.evaluate(SELECTED_LINE) == "def area(): raise ValueError('no area')"
    assert await page.evaluate("document.querySelector('[aria-selected=true]').textContent") == (
        "shapes.py"
    )
    # One that was removed can be had back.
    await click(page, "#remove")
    assert await page.evaluate(tabs) == [["main.py", ""]]
    assert await page.evaluate(TOLD) == "shapes.py was removed."
    await click(page, "#undo")
    assert "no area" in await page.evaluate(PROGRAM)


async def _run(page: Page) -> str:
    """Press Run and return the id of the new job."""
    before = await page.evaluate("location.hash")
    await click(page, "#run")
    await page.until(f"location.hash.startsWith('#job=') && location.hash !== '{before}'")
    found: str = await page.evaluate("new URLSearchParams(location.hash.slice(1)).get('job')")
    return found


async def test_a_program_is_opened_from_a_link_and_one_s_own_comes_back(
    playground: Playground,
) -> None:
    page = await playground.open()
    await page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    await choose(page, "#example", "1")
    await page.until(f"{TOLD}.startsWith('Example') || document.querySelector('#notice').hidden")
    await page.evaluate("document.querySelector('#more').open = true")
    await page.evaluate("document.querySelector('#limit-wallTimeS').value = '7.5'")
    await page.evaluate("document.querySelector('#limit-memoryBytes').value = '200'")
    await click(page, "#share-program")
    link = await page.until("window.copied")
    assert link.startswith(f"{playground.address}#code=")
    assert "copied" in await page.evaluate(TOLD)

    theirs = await playground.open()
    await playground.write(theirs, "print('their own')")
    await theirs.until("Object.keys(localStorage).some((key) => key.includes('programs'))")
    await theirs.open("about:blank")
    await theirs.open(link)
    assert await theirs.until(f"{TOLD}") == "Opened from a link."
    words = await page.evaluate("document.querySelector('#stdin').value")
    assert words
    assert await theirs.evaluate("document.querySelector('#stdin').value") == words
    assert await theirs.evaluate("document.querySelector('#limit-wallTimeS').value") == "7.5"
    # Nothing has run, and nothing runs until somebody says so.
    assert await theirs.evaluate("document.querySelector('#state').textContent") == ""
    await click(theirs, "#run")
    assert await playground.verdict(theirs) == "finished"
    assert "200" in await theirs.evaluate("document.querySelector('#facts').innerText")
    await click(theirs, "#undo")
    assert await theirs.evaluate(PROGRAM) == "print('their own')"
    for broken in ("AAAA", "%", link.partition("#code=")[2][:-9]):
        await theirs.evaluate(f"location.hash = '#code={broken}'")
        await theirs.until(f"{TOLD}.includes('no program')")
        await theirs.evaluate("document.querySelector('#told').textContent = ''")
    assert await theirs.evaluate(PROGRAM) == "print('their own')"


async def test_the_last_program_of_each_language_is_kept(playground: Playground) -> None:
    page = await playground.open()
    await playground.write(page, "print('kept')")
    # What was written just now stays when the language changes.
    await choose(page, "#language", "bash")
    assert await page.evaluate(PROGRAM) == "print('kept')"
    assert "main.sh" in await page.evaluate("document.querySelector('#tabs').innerText")
    assert "Bash" in await page.evaluate("document.querySelector('#undo').textContent")
    await click(page, "#undo")
    assert "seq" in await page.evaluate(PROGRAM) or "for number" in await page.evaluate(PROGRAM)
    await paste_program(page, "echo kept too")
    async with page.loading():
        await page.call("Page.reload")
    await page.until(f"!({IN_PLAIN}) && ({PROGRAM}) === 'echo kept too'")
    assert await page.evaluate("document.querySelector('#language').value") == "bash"
    await choose(page, "#language", "python")
    assert await page.evaluate(PROGRAM) == "print('kept')"
    # Somebody who prefers the plain box gets it, with the same program.
    async with page.loading():
        await page.evaluate("document.querySelector('#plain').click()")
    await page.until("document.querySelector('#language').value !== ''")
    assert await page.evaluate(IN_PLAIN)
    assert await page.until("document.querySelector('#code').value") == "print('kept')"


async def test_limits_and_packages_are_offered_as_the_service_has_them(
    browser: Browser, start: Start
) -> None:
    most = {"wall_time_s": 90, "processes": 100}
    science = {"languages": ["python"], "path": "/nonexistent/science"}
    client: Any = await start(limits={"max": most}, environments={"science": science})
    playground = Playground(browser, f"http://127.0.0.1:{client.port}/")
    page = await playground.open()
    await click(page, "summary")
    rows = "[...document.querySelectorAll('#limits label')].map((row) => row.innerText.trim())"
    told = dict(row.split("\n") for row in await page.evaluate(rows))
    assert told["Time"] == "s, at most 90"
    assert told["Processes"] == "at most 100"
    assert await page.evaluate("document.querySelector('#limit-wallTimeS').placeholder") == "60"
    # There is one sandbox, so nobody is asked; the packages are not built, which is said.
    visible = "document.querySelector('{}').checkVisibility()"
    assert not await page.evaluate(visible.format("#sandbox"))
    assert await page.evaluate(visible.format("#environment"))
    option = "document.querySelector('#environment').options[1]"
    assert await page.evaluate(f"[{option}.disabled, {option}.title !== '']") == [True, True]
    await page.evaluate("document.querySelector('#limit-wallTimeS').value = '91'")
    await click(page, "summary")
    await page.press("Enter", ctrl=True)
    # It is not sent: the browser says what is the most, at the field, which is shown again.
    assert await page.evaluate(FOCUSED) == "limit-wallTimeS"
    assert await page.evaluate("document.activeElement.validity.rangeOverflow")
    assert await page.evaluate("document.querySelector('#state').textContent") == ""
    await page.evaluate("document.querySelector('#limit-wallTimeS').value = '0.3'")
    await playground.run(page, "while True: pass")
    assert "0.3" in await playground.verdict(page)
    await playground.check()


async def test_ctrl_c_interrupts_unless_something_is_selected(playground: Playground) -> None:
    page = await playground.open()
    code = (
        "import time\nprint('ready')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('bye')"
    )
    await playground.run(page, code)
    await page.until("document.querySelectorAll('#output > .line').length > 0")
    await focus_program(page)
    await page.press("a", ctrl=True)
    await page.press("c", ctrl=True)  # copies
    assert not [url for url in page.requests if url.endswith("/signal")]
    await page.press("ArrowRight")
    await page.press("c", ctrl=True)
    assert await playground.verdict(page) == "finished"
    assert [text for _, text in await playground.lines(page)] == ["ready", "bye"]


@pytest.mark.parametrize("width", [390, 1280])
async def test_every_state_fits_in_both_themes(playground: Playground, width: int) -> None:
    page = await playground.open(width=width, height=800)
    await playground.write(page, f"print({'1' * 300!r})")
    await click(page, "#add")
    await page.press("a", ctrl=True)
    await page.type("a/rather/long/path/to/some/file/with/an/extremely/long/name.py")
    await page.press("Enter")
    await click(page, "summary")
    await choose(page, "#example", "3")
    for theme, ground in (("dark", "rgb(15, 20, 22)"), ("light", "rgb(253, 253, 252)")):
        # A choice of one's own goes before the system's, and survives a reload.
        await page.prefer("light" if theme == "dark" else "dark")
        await choose(page, "#theme", theme)
        async with page.loading():
            await page.call("Page.reload")
        await page.until(f"!({IN_PLAIN})")
        content = f"{HIGHLIGHTED}.shadowRoot.querySelector('.cm-editor')"
        assert await page.evaluate(f"getComputedStyle({content}).backgroundColor") == ground
        assert await page.evaluate(OVERFLOW) == 0
        await click(page, "#show-keys")
        assert await page.evaluate(OVERFLOW) == 0
        assert await page.evaluate("document.querySelector('#keys').innerText.includes('Enter')")
        await page.press("Escape")
        # Each thing to use has a name for who does not see it.
        nameless = """[...document.querySelectorAll("button, select, input, textarea, a")]
            .filter((e) => e.checkVisibility() && !e.textContent.trim() && !e.labels?.length
                && !e.ariaLabel && !e.title).map((e) => e.outerHTML)"""
        assert await page.evaluate(nameless) == []


@pytest.mark.parametrize("allowed", [True, False])
async def test_it_is_framed_only_where_the_configuration_says(
    browser: Browser, start: Start, *, allowed: bool
) -> None:
    client: Any = None

    async def course(_: web.Request) -> web.Response:
        frame = f"<iframe title='Exercise' src='http://127.0.0.1:{client.port}/'></iframe>"
        return web.Response(text=f"<!doctype html>{frame}", content_type="text/html")

    host = web.Application()
    host.router.add_get("/", course)
    async with TestServer(host) as server:
        origin = str(server.make_url("")).rstrip("/")
        client = await start(server={"frame_ancestors": [origin] if allowed else []})
        page = await browser.page()
        await page.open(f"{origin}/")
        tree = await page.call("Page.getFrameTree")
        (frame,) = tree["frameTree"]["childFrames"]
        assert ("unreachableUrl" in frame["frame"]) is not allowed
        # Within it the page does what it does elsewhere.
        scripts = [url for url in page.requests if url.endswith("/playground.js")]
        assert bool(scripts) is allowed
