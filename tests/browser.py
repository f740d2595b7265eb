"""A real browser for tests: Chromium without a window, told what to do over its own protocol.

It is installed by `make test`; where it is missing the test fails, it is not passed over.
"""

import asyncio
import itertools
import json
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STARTS_S, ANSWERS_S = 40.0, 20.0


class Page:
    """One page of a browser: `said` are its errors and warnings, `fetched` the URLs it got."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.said: list[str] = []
        self.fetched: list[str] = []
        self._socket = socket
        self._ids = itertools.count(1)

    async def call(self, method: str, **values: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result. Raises RuntimeError."""
        id = next(self._ids)
        await self._socket.send_str(json.dumps({"id": id, "method": method, "params": values}))
        async with asyncio.timeout(ANSWERS_S):
            while True:
                message = json.loads(await self._socket.receive_str())
                self._noted(message)
                if message.get("id") == id:
                    if "error" in message:
                        raise RuntimeError(f"{method}: {message['error']}")
                    found: dict[str, Any] = message["result"]
                    return found

    def _noted(self, message: dict[str, Any]) -> None:
        kind, values = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.said.append(json.dumps(values["exceptionDetails"]))
        if kind == "Log.entryAdded":
            self.said.append(values["entry"]["text"])
        if kind == "Network.requestWillBeSent":
            self.fetched.append(values["request"]["url"])

    async def value(self, expression: str) -> Any:
        """What an expression is on the page, once its promise is kept."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true. Raises TimeoutError."""
        async with asyncio.timeout(ANSWERS_S):
            while True:
                if await self.value(expression):
                    return
                await asyncio.sleep(0.02)

    async def goes_to(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def press(self, key: str) -> None:
        """A key, as a person presses it."""
        text = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A page of a browser that has never been used. Raises RuntimeError where there is none."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        raise RuntimeError(f"none of {', '.join(NAMES)}: python3 scripts/system.py chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [each for each in await answer.json() if each["type"] == "page"]
                async with http.ws_connect(
                    pages[0]["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    page = Page(socket)
                    for domain in ("Page", "Runtime", "Log", "Network"):
                        await page.call(f"{domain}.enable")
                    yield page
                    await page.call("Browser.close")
        finally:
            if process.returncode is None:
                try:
                    await asyncio.wait_for(process.wait(), 5)
                except TimeoutError:
                    process.send_signal(signal.SIGKILL)
                    await process.wait()


async def _port(file: Path) -> int:
    """The port that a browser says that it listens on. Raises TimeoutError."""
    async with asyncio.timeout(STARTS_S):
        while True:
            if lines := _lines(file):
                return int(lines[0])
            await asyncio.sleep(0.05)


def _lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []
