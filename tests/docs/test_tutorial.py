"""The steps of the tutorial, one after another: the commands, then the application in a browser."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.browser.chromium import Browser
from tests.conftest import Start

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = FENCE.findall(PAGE)


@pytest.mark.slow
async def test_the_commands_do_what_the_text_says(start: Start, tmp_path: Path) -> None:
    client = await start(streams={"grace_s": 0.1})
    printed = []
    for code in [code for language, code in SNIPPETS if language == "sh"]:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c"),
            code.replace("127.0.0.1:8080", f"{client.host}:{client.port}"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, code
        printed.append(out.decode())
    ready, ran, resumed = printed
    assert "ready" in ready
    assert "42" in ran
    assert '"reason":"exited"' in ran
    first = (tmp_path / "first.txt").read_text()
    assert "event: complete" not in first
    assert "event: complete" in resumed
    numbers = [int(number) for number in re.findall(r"^id: (\d+)", first + resumed, re.MULTILINE)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "nothing twice, nothing missing"
    lines = re.findall(r"line \d", first + resumed)
    assert lines == ["line 1", "line 2", "line 3", "line 4"]


@pytest.mark.slow
async def test_the_application_shows_output_as_it_comes(tmp_path: Path, browser: Browser) -> None:
    (code,) = [code for language, code in SNIPPETS if language == "python"]
    program = tmp_path / "live.py"
    assert "port=8081" in code
    program.write_text(code.replace("port=8081", "port=0"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", str(program)), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        page = await browser.page()
        await page.open(found[0] + "/")
        await page.evaluate("document.querySelector('button').click()")
        await page.until("document.querySelector('pre').textContent.includes('line 0')")
        early = await page.evaluate("document.querySelector('pre').textContent")
        await page.until("document.querySelector('pre').textContent.includes('ended: exited')")
        late = await page.evaluate("document.querySelector('pre').textContent")
        assert "line 4" not in early
        assert late == "line 0\nline 1\nline 2\nline 3\nline 4\nended: exited"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 45)
