"""Headless Chromium over its DevTools protocol: pages as people see them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

ANSWER_S = 120.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--no-default-browser-check", "--remote-debugging-port=0",
)  # fmt: skip


def require_chromium() -> str:
    """The path of Chromium; the test is skipped where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed (Debian's package `chromium`)")
    return path


class Page:
    """A page of the browser.

    Attributes:
        problems: Errors on its console, exceptions included.
        requests: Addresses that it asked for.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        end = time.monotonic() + ANSWER_S
        while (left := end - time.monotonic()) > 0:
            message = json.loads(self._connection.recv(timeout=left))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)
        raise TimeoutError(f"{method} was not answered within {ANSWER_S:.0f} s")

    def open(self, address: str, width: int, dark: bool = False) -> None:
        """Loads an address in a window of a width, and waits until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        self.wait_for(
            f"location.href === {json.dumps(address)} && document.readyState === 'complete'"
        )

    def evaluate(self, script: str) -> Any:
        """The value of a script."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 120) -> None:
        """Waits until a script's value is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(script):
            assert time.monotonic() < end, f"{script} within {seconds:.0f} s; {self.problems}"
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        """Chooses a file in an input."""
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        """Writes the whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def too_wide(self) -> list[str]:
        """Elements that reach beyond the right edge of the window, but for those within a box that
        scrolls.
        """
        return self.evaluate(
            "[...document.querySelectorAll('body *')].filter(element =>"
            " element.getBoundingClientRect().right > innerWidth + 1"
            " && !element.parentElement.closest('.scroll')).map(e => e.outerHTML)"
        )

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.problems.append(json.dumps(params["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@contextlib.contextmanager
def chromium_page() -> Iterator[Page]:
    """A page of a Chromium of its own; the test is skipped where there is none."""
    path = require_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = _port(Path(folder))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = json.load(answer)
            address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
            with connect(address, max_size=None, proxy=None) as connection:
                yield Page(connection)
                with contextlib.suppress(ConnectionClosed):
                    connection.send(json.dumps({"id": 0, "method": "Browser.close"}))
        finally:
            process.terminate()
            process.wait(60)


def _port(folder: Path) -> int:
    """The port that Chromium has chosen."""
    end = time.monotonic() + 120
    file = folder / "DevToolsActivePort"
    while not (file.is_file() and file.read_text(encoding="utf-8").count("\n")):
        assert time.monotonic() < end, "Chromium did not start within 120 s"
        time.sleep(0.05)
    return int(file.read_text(encoding="utf-8").splitlines()[0])
