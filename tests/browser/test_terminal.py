"""Programs on a terminal in the page: keys, size, what a program may not do, and a reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import Playground
from tests.support import AnyClient

BUNDLE = Path(__file__).parents[2] / "streamer" / "web" / "static" / "bundle"

pytestmark = pytest.mark.skipif(
    not (BUNDLE / "terminal.js").exists(),
    reason="the page's bundle was not built: make setup builds it where npm is",
)

ON_TERMINAL = r"""
import os, shutil, signal, sys, termios, tty
print("a terminal:", sys.stdin.isatty(), "\x1b[32mgreen\x1b[0m")
print("\x1b]0;another title\x07\x1b]52;c;aGFja2Vk\x07\x1b]8;;javascript:hacked()\x07link\x1b]8;;\x07")
print("<img src=x onerror=hacked()><script>hacked()</script>")
def size(*_):
    print("size", *shutil.get_terminal_size(), flush=True)
signal.signal(signal.SIGWINCH, size)
size()
name = input("name? ")
print("hello", name)
# A question to the terminal: the answer comes as if it was typed.
old = termios.tcgetattr(0)
tty.setraw(0)
os.write(1, b"\x1b[6n")
answer = b""
while not answer.endswith(b"R"): answer += os.read(0, 1)
termios.tcsetattr(0, termios.TCSADRAIN, old)
print("answered", answer[1:2] == b"[", flush=True)
try:
    while True: print("typed", repr(input("more? ")))
except KeyboardInterrupt:
    print("interrupted")
"""

TEXT = (
    "[...document.querySelectorAll('#terminal .xterm-rows > div')]"
    ".map((row) => row.textContent.replaceAll('\\u00a0', ' ').trimEnd())"
)


async def until_row(page: Page, text: str) -> None:
    await page.until(f"{TEXT}.includes({text!r})")


async def keys(page: Page, text: str) -> None:
    await page.evaluate("document.querySelector('#terminal textarea').focus()")
    await page.type(text)
    await page.press("Enter")


async def test_a_program_on_a_terminal(playground: Playground, client: AnyClient) -> None:
    page = await playground.open(width=1280, height=800)
    await page.evaluate("""{
        window.hacks = 0;
        window.hacked = window.open = () => { window.hacks += 1; };
        navigator.clipboard.writeText = async (text) => { window.copied = text; };
        document.querySelector("#wanted").click();
    }""")
    title = await page.evaluate("document.title")
    job_id = await playground.run(page, ON_TERMINAL)
    await until_row(page, "a terminal: True green")
    await until_row(page, "link")
    await until_row(page, "<img src=x onerror=hacked()><script>hacked()</script>")
    # The program has the size that is to be seen, also when the window changes.
    async with client.get(f"/api/jobs/{job_id}") as response:
        size = (await response.json())["terminal"]
    assert size["cols"] > 40
    assert size["rows"] > 10
    columns = (
        f"{TEXT}.map((row) => /size ([0-9]+) [0-9]+$/.exec(row)?.[1])"
        f".filter((cols) => cols !== undefined && Number(cols) {{}} {size['cols']}).length > 0"
    )
    await page.until(columns.format("==="))
    await page.call(
        "Emulation.setDeviceMetricsOverride",
        width=1100,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    await page.until(columns.format("<"))
    # Typed: the terminal itself shows it. A question of the program is answered once.
    await keys(page, "Zoé")
    await until_row(page, "hello Zoé")
    await until_row(page, "answered True")
    await until_row(page, "more?")
    # A reload shows the same, answers nothing again, and goes on.
    async with page.loading():
        await page.call("Page.reload")
    await until_row(page, "answered True")
    await until_row(page, "more?")
    await keys(page, "on")
    await until_row(page, "typed 'on'")
    await page.evaluate("document.querySelector('#terminal textarea').focus()")
    await page.press("c", ctrl=True)
    assert await playground.verdict(page) == "finished"
    await until_row(page, "more? ^Cinterrupted")
    # Nothing more is taken, the focus can leave, and the text can be taken along.
    await page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    await page.press("Escape", shift=True)
    assert await page.evaluate("document.activeElement.id") == "copy"
    await page.press("Enter")
    assert "hello Zoé\n" in await page.until("window.copied")
    assert await page.evaluate("document.title") == title
    # Whoever follows the run sees the same, and types nothing.
    other = await playground.open(f"#job={job_id}")
    await other.until(f"{TEXT}.includes('more? ^Cinterrupted')")
    assert await other.evaluate("window.violations") == []
    # The next program without it is as before.
    await page.evaluate("document.querySelector('#wanted').click()")
    await playground.run(page, "print('plain')")
    assert await playground.verdict(page) == "finished"
    assert await playground.lines(page) == [["stdout", "plain"]]
    assert await page.evaluate("document.querySelector('#terminal').hidden")
