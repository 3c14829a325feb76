"""Headless Chromium over the DevTools protocol, through two pipes: the standard library is all it needs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 120.0


class Page:
    """One page of a browser."""

    def __init__(self, written: int, read: int) -> None:
        self._written, self._read = written, read
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.complaints: list[str] = []

    def attach(self) -> None:
        """Opens the page that the other calls are about."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns the result of a command of the protocol; what the page complains of meanwhile is kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._written, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"])[:400])
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens an address on a screen of a size in pixels; narrow ones are phones, which are touched."""
        phone = width < 500
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, *, seconds: float = _SECONDS) -> Any:
        """Returns the value of an expression as soon as it is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):  # the page may just be changing
                value = self.ask(expression)
                if value:
                    return value
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}\n{self.ask('document.body.innerText')[:2000]}")

    def move(self, x: float, y: float) -> None:
        """Moves the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Clicks with the left button."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path, *, whole: bool = False) -> bytes:
        """Returns a screenshot, of the `whole` page or of what is in view, having written it."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"] if whole else None
        clip = {} if size is None else {"clip": {**size, "x": 0, "y": 0, "scale": 1}, "captureBeyondViewport": True}
        image = base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"])
        path.write_bytes(image)
        return image

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], _SECONDS)
            assert ready, "the browser does not answer"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser has gone"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Yields a page of a browser of the test's own; skips where there is none."""
    program = next((found for found in map(shutil.which, _NAMES) if found), None)
    if program is None:
        pytest.skip(f"no browser here: install one of {', '.join(_NAMES)}")
    to_browser, from_test = os.pipe()
    to_test, from_browser = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
    # The protocol wants its pipes as descriptors 3 and 4; 8 and 9 keep them apart while they are moved.
    moved = f'exec "$0" "$@" 8<&{to_browser} 9>&{from_browser} 3<&8 4>&9'
    with subprocess.Popen(
        ["bash", "-c", moved, program, *flags, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        os.close(to_browser)
        os.close(from_browser)
        page = Page(from_test, to_test)
        try:
            page.attach()
            yield page
        finally:
            os.killpg(process.pid, 9)
            os.close(from_test)
            os.close(to_test)
