"""The files that a program leaves, in the page: shown as what they are, and never as markup."""

from __future__ import annotations

from tests.browser.conftest import Playground
from tests.support import AnyClient

LEAVES = r"""
import os, struct, time, zlib

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

def png(width, height, said=None):
    head = struct.pack(">IIBBBBB", *(said or (width, height)), 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x20\x80\xc0" * width) * height
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b""))

os.mkdir("plots")
script = b"<svg xmlns='http://www.w3.org/2000/svg' onload='hacked()'><script>hacked()</script></svg>"
for name, content in {
    "plots/good.png": png(40, 30),
    "<img src=x onerror=hacked()>.png": png(2, 2),
    "javascript:hacked().png": b"<script>hacked()</script>",
    "bomb.png": png(2, 2, said=(60000, 60000)),
    "broken.png": png(3, 3)[:33] + bytes(60),
    "%2e%2e.csv": b"a,b\n<b>1</b>,2\n",
    "\u202egnp.svg": script,
    "page.html": b"<script>hacked()</script>",
    "noise.zip": bytes(range(256)),
    "left.dat": b"not asked for",
}.items():
    with open(name, "wb") as file:
        file.write(content)
kept = bytearray(30_000_000)
end = time.monotonic() + 2.2
while time.monotonic() < end: pass
"""

HACKS = """{
    window.hacks = 0;
    window.hacked = () => { window.hacks += 1; };
}"""


async def test_what_a_program_leaves_and_uses(playground: Playground, client: AnyClient) -> None:
    page = await playground.open(width=390, height=800)
    await page.evaluate(HACKS)
    job_id = await playground.run(page, LEAVES)
    # While it runs, what it uses is drawn; the same is told in words.
    await page.until("document.querySelectorAll('#usage polyline[points*=\\',\\']').length === 2")
    figures = await page.until(
        "(([cpu, memory]) => / \\d+ %/.test(cpu) && /MiB of 256 MiB/.test(memory))"
        "([...document.querySelectorAll('#usage figcaption')].map((each) => each.textContent))"
    )
    assert figures
    titles = "[...document.querySelectorAll('#usage title')].map((title) => title.textContent)"
    assert [title.partition(",")[0] for title in await page.evaluate(titles)] == [
        "CPU over time",
        "Memory over time",
    ]
    assert await playground.verdict(page) == "finished"
    names = "[...document.querySelectorAll('#files bdi')].map((name) => name.textContent)"
    assert sorted(await page.until(f"{names}.length === 9 && {names}")) == sorted(
        [
            "%2e%2e.csv",
            "<img src=x onerror=hacked()>.png",
            "bomb.png",
            "broken.png",
            "javascript:hacked().png",
            "noise.zip",
            "page.html",
            "plots/good.png",
            "\u202egnp.svg",
        ]
    )
    # Images that are images; text is shown as text when one asks for it.
    images = (
        "[...document.querySelectorAll('#gallery img')]"
        ".filter((image) => image.naturalWidth > 0).map((image) => image.alt).sort()"
    )
    await page.until(
        f"{images}.length === 2 && document.querySelectorAll('#listed pre').length === 4"
    )
    assert await page.evaluate(images) == [
        "Image <img src=x onerror=hacked()>.png",
        "Image plots/good.png",
    ]
    assert not [url for url in page.requests if "bomb.png" in url and page.requests.count(url) > 1]
    texts = await page.evaluate(
        "[...document.querySelectorAll('#listed pre')].map((text) => text.textContent).sort()"
    )
    assert texts[1] == "<script>hacked()</script>"
    assert texts[3] == "a,b\n<b>1</b>,2\n"
    # Each link saves exactly the file, as something that a browser does not open.
    saved = await page.evaluate("""Promise.all([...document.querySelectorAll("#files a")].map(
        async (link) => {
            const response = await fetch(link.href);
            const kind = response.headers.get("Content-Disposition").split(";")[0];
            return [link.download, kind, (await response.arrayBuffer()).byteLength];
        }))""")
    async with client.get(f"/api/jobs/{job_id}/files") as response:
        listed = (await response.json())["files"]
    assert sorted(saved) == sorted(
        [one["name"].rpartition("/")[2], "attachment", one["bytes"]] for one in listed
    )
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(overflow) == 0
    assert await page.evaluate("hacks") == 0
    # Other patterns can be asked for, and a run that leaves nothing shows nothing.
    await page.evaluate("""{
        const box = document.querySelector("#patterns");
        box.value = "left.dat\\nnone-*.txt";
        box.dispatchEvent(new Event("change"));
    }""")
    await playground.run(page, "open('left.dat', 'w').write('x')")
    assert await playground.verdict(page) == "finished"
    await page.until(f"{names}.join() === 'left.dat'")
    assert await page.evaluate("document.querySelector('#unkept').textContent") == (
        "none-*.txt was not kept: there is no such file"
    )
    await page.evaluate("document.querySelector('#usual').click()")
    await playground.run(page, "print(1)")
    assert await playground.verdict(page) == "finished"
    assert await page.evaluate("document.querySelector('#files').hidden")


async def test_without_files_in_the_service_the_page_runs_programs(
    playground: Playground, client: AnyClient
) -> None:
    """The sandbox of the default may be one whose files cannot be taken out."""
    page = await playground.open()
    await page.evaluate("""{
        const real = window.fetch;
        window.asked = 0;
        window.fetch = async (address, options) => {
            if (options?.method === "POST" && options.body.includes("artifacts")) {
                window.asked += 1;
                const problem = { title: "Bad Request", detail: "no files", path: "$.artifacts" };
                return new Response(JSON.stringify(problem), { status: 400 });
            }
            return real(address, options);
        };
    }""")
    for _ in range(2):
        await playground.run(page, "print(1)")
        assert await playground.verdict(page) == "finished"
    assert await page.evaluate("window.asked") == 1
