"""Drive Debian's Chromium by its own protocol (CDP), over aiohttp's WebSocket.

No driver and no library between: what a driver would add is another process, another version
to match and waiting in threads, while everything else of a test lives on one event loop.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any, Final

import aiohttp

__all__ = ["Browser", "Page", "chromium"]

PATIENCE_S: Final = 30.0

FLAGS: Final = (
    "--headless",
    "--remote-debugging-port=0",
    # Nothing of its own goes out, and nothing could.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--password-store=basic",
    # A small /dev/shm and no graphics card, as in a container.
    "--disable-breakpad",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
)

CODES: Final = {
    **{letter: ord(letter.upper()) for letter in "abcdefghijklmnopqrstuvwxyz"},
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Delete": 46,
    "F2": 113,
}
"""The numbers of the keys that tests press."""

# Violations of the policy are events of the document; they are kept for the test to read.
WATCH: Final = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`);
});
"""


@contextlib.contextmanager
def chromium(executable: str, profile: Path) -> Iterator[str]:
    """Run a browser with an empty profile and yield the address of its protocol."""
    # As root it refuses its own sandbox; what it shows here are our own pages.
    sandbox = ("--no-sandbox",) if os.getuid() == 0 else ()
    process = subprocess.Popen(
        (executable, *FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "HOME": str(profile), "TMPDIR": str(profile)},
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    reading = threading.Thread(target=_read_on, args=(process.stderr,))
    try:
        address = _address(process.stderr)
        reading.start()
        yield address
    finally:
        # Its helpers, orphans among them, are in its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if reading.ident is not None:
            reading.join()
        process.stderr.close()


def _address(stderr: IO[str]) -> str:
    said = []
    for line in stderr:
        said.append(line)
        if found := re.search(r"DevTools listening on (ws://\S+)", line):
            return found[1]
    raise RuntimeError(f"the browser ended at its start: {''.join(said)}")


def _read_on(stderr: IO[str]) -> None:
    for _ in stderr:
        pass


class Browser:
    """One connection to a running browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._contexts: list[str] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, address: str) -> AsyncIterator[Browser]:
        """Connect; on exit everything that was opened by this connection is closed."""
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            browser = cls(socket)
            reading = asyncio.create_task(browser._read())
            try:
                yield browser
            finally:
                for context in browser._contexts:
                    await browser.call("Target.disposeBrowserContext", browserContextId=context)
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        async with asyncio.timeout(PATIENCE_S):
            result = await answer
        assert "error" not in result, f"{method}: {result['error']}"
        found: dict[str, Any] = result["result"]
        return found

    async def page(
        self, *, width: int = 1100, height: int = 700, beside: Page | None = None
    ) -> Page:
        """Open a page with cookies and storage of its own, as another person's browser has.

        `beside` opens it as the next tab of another one's window instead, which hides that one.
        """
        if beside is None:
            created = await self.call("Target.createBrowserContext")
            self._contexts.append(created["browserContextId"])
        context = self._contexts[-1] if beside is None else beside.context
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(self, attached["sessionId"], context)
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await page.prefer("light")
        return page

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                answer = self._answers.pop(told["id"])
                if not answer.done():
                    answer.set_result(told)
            elif page := self._pages.get(told.get("sessionId", "")):
                page.told(told["method"], told["params"])


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self.context = context
        """Whose cookies, storage and connections it has."""
        self._loaded = asyncio.Event()
        self.errors: list[str] = []
        """What the console has as an error, but for connections that failed."""
        self.requests: list[str] = []
        """The addresses that were asked for."""

    def told(self, method: str, params: dict[str, Any]) -> None:
        """Take note of an event of the protocol."""
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            entry = params["entry"]
            if entry["level"] == "error" and entry["source"] != "network":
                self.errors.append(entry["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol on this page."""
        return await self._browser.call(method, self._session, **params)

    async def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        async with self.loading():
            went = await self.call("Page.navigate", url=address)
            assert "errorText" not in went, went

    @contextlib.asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Wait at the end of the block until the page has been loaded again."""
        self._loaded.clear()
        yield
        async with asyncio.timeout(PATIENCE_S):
            await self._loaded.wait()

    async def prefer(self, scheme: str) -> None:
        """Prefer a colour scheme, "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or of what it promises, as JSON can hold it."""
        done = await self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until an expression is true of the page, and return its value."""
        looking = f"""new Promise((resolve) => {{
            const look = () => {{
                const value = {condition};
                if (value) resolve(value); else setTimeout(look, 10);
            }};
            look();
        }})"""
        try:
            return await self.evaluate(looking)
        except TimeoutError:
            shown = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {condition}\n{shown}\n{self.errors}") from None

    async def press(self, key: str, *, ctrl: bool = False, shift: bool = False) -> None:
        """Press and release a key as a person does."""
        event: dict[str, Any] = {
            "key": key,
            "code": f"Key{key.upper()}" if len(key) == 1 else key,
            "windowsVirtualKeyCode": CODES[key],
            "modifiers": 2 * ctrl + 8 * shift,
        }
        editing = {"commands": ["selectAll"]} if ctrl and key == "a" else {}
        await self.call("Input.dispatchKeyEvent", type="rawKeyDown", **event, **editing)
        if key == "Enter" and not ctrl:
            await self.call("Input.dispatchKeyEvent", type="char", text="\r", **event)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def type(self, text: str) -> None:
        """Put text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def screenshot(self, file: Path) -> None:
        """Write what is to be seen as a PNG."""
        taken = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(taken["data"]))
