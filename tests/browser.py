"""A headless Chromium driven over its own protocol: no driver program, no other host.

    with Browser() as browser:
        browser.open("http://127.0.0.1:8000/")
        browser.run("document.title")

Needs `chromium` (or what the variable CHROMIUM names) and the package websocket-client.
"""

import base64
import functools
import gzip
import http.server
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--no-default-browser-check", "--hide-scrollbars", "--mute-audio",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip
LONGEST_S = 60.0  # for one answer: the machine may be busy


def chromium() -> str | None:
    """The browser's program, None if there is none."""
    named = os.environ.get("CHROMIUM")
    return next(
        (found for name in (named, *PROGRAMS) if name and (found := shutil.which(name))), None
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder served on the loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        """Text goes out compressed, as every static host sends it."""

        def do_GET(self) -> None:
            path = Path(self.translate_path(self.path))
            path = path / "index.html" if path.is_dir() else path
            kind = self.guess_type(str(path))
            if not path.is_file() or not re.search("text|json|javascript|svg", kind):
                return super().do_GET()
            body = gzip.compress(path.read_bytes(), 6)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class Browser:
    """One tab. `requests` and `complaints` are what the page opened last asked for and said."""

    def __init__(self) -> None:
        program = chromium()
        if program is None:
            raise RuntimeError("no Chromium here: install it, or name one in CHROMIUM")
        self._profile = Path(tempfile.mkdtemp(prefix="x1-browser-"))
        self._process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={self._profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._count, self._loaded = 0, False
        self.requests: list[str] = []
        self.complaints: list[str] = []
        try:
            port = self._port()
            browser = websocket.create_connection(f"ws://{port}", timeout=LONGEST_S)
            self._socket = browser
            target = self._send("Target.createTarget", url="about:blank")["targetId"]
            browser.close()
            page = f"ws://{port.split('/')[0]}/devtools/page/{target}"
            self._socket = websocket.create_connection(page, timeout=LONGEST_S)
            for domain in ("Page", "Network", "Runtime", "Log"):
                self._send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _port(self) -> str:
        """Host, port and path of the browser's own socket, once it has written them down."""
        path = self._profile / "DevToolsActivePort"
        for _ in range(int(LONGEST_S / 0.05)):
            with suppress(OSError, ValueError):
                port, rest = path.read_text("utf-8").split("\n")
                return f"127.0.0.1:{port}{rest}"
            time.sleep(0.05)
        raise RuntimeError("Chromium did not start")

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        answer = json.loads(self._socket.recv())
        method, params = answer.get("method"), answer.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            said = details.get("exception", {}).get("description") or details["text"]
            self.complaints.append(str(said))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.complaints.append(str([arg.get("value") for arg in params["args"]]))
        return dict(answer)

    def open(self, address: str) -> None:
        """Load a page, until its load event and two frames after it."""
        self.requests, self.complaints, self._loaded = [], [], False
        self._send("Page.navigate", url=address)
        while not self._loaded:
            self._receive()
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        result = self._send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The first truthy value of an expression, on this page or on the one that it leads to.

        Raises TimeoutError without one in time.
        """
        for _ in range(int(LONGEST_S / 0.05)):
            try:
                if value := self.run(expression):
                    return value
            except RuntimeError as fault:  # asked in the moment between two pages
                if "navigated" not in str(fault) and "context" not in str(fault):
                    raise
            time.sleep(0.05)
        raise TimeoutError(expression)

    def size(self, width: int, height: int = 900) -> None:
        """The window, in CSS pixels."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def scheme(self, name: str) -> None:
        """What the reader's system prefers: "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self._send("Emulation.setEmulatedMedia", features=[feature])

    def key(self, name: str, text: str = "") -> None:
        """One key pressed and let go, in the element that has the focus."""
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=name, code=name, text=text)

    def write(self, text: str) -> None:
        self._send("Input.insertText", text=text)

    def picture(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        shot = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with suppress(AttributeError, OSError, websocket.WebSocketException):
            self._socket.close()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
