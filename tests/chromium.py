"""The system's Chromium, headless, driven by the DevTools protocol over aiohttp's websocket."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

from streams.processes.parent_death import die_with_parent

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_UNTIL = """new Promise((resolve, reject) => {
  const began = Date.now();
  (function look() {
    if (%s) return resolve(true);
    if (Date.now() - began > %d) return reject(new Error("not true within the time"));
    setTimeout(look, 30);
  })();
})"""


class Browser:
    """One page.

    Attributes:
        problems: console errors, uncaught exceptions and violations of the page's policy, as texts.
    """

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._session: dict[str, str] = {}
        self.problems: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def open(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def _read(self) -> None:
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            else:
                self._note(content["method"], content["params"])

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.problems.append(str([argument.get("value") for argument in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.problems.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters, **self._session})
        content = await asyncio.wait_for(answer, 60)
        assert "error" not in content, f"{method}: {content}"
        return dict(content["result"])

    async def evaluate(self, script: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{script}: {json.dumps(result['exceptionDetails'])[:800]}"
        return result["result"].get("value")

    async def until(self, condition: str, timeout_s: float = 30) -> None:
        """Waits in the page until an expression of JavaScript is true."""
        await self.evaluate(_UNTIL % (condition, 1000 * timeout_s))

    async def show(self, *, width: int, height: int, scheme: str = "light") -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"]))

    async def close(self) -> None:
        self._session = {}
        with suppress(asyncio.TimeoutError, ConnectionError):
            await self.call("Browser.close")
        self._reading.cancel()


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--disable-extensions", "--disable-background-networking", "--disable-component-update",
               "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*die_with_parent(command), stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        address = ""
        async for line in process.stderr:
            if line.startswith(b"DevTools listening on "):
                address = line.split()[-1].decode()
                break
        assert address, "Chromium has ended without an address"
        draining = asyncio.create_task(process.stderr.read())
        async with ClientSession() as session, session.ws_connect(address, max_msg_size=1 << 26) as socket:
            page = Browser(socket)
            await page.open()
            yield page
            await page.close()
        draining.cancel()
        await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
