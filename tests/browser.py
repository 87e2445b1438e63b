"""A headless Chromium for the tests of the report, driven over a pipe by the DevTools protocol: no package is needed.

    with Browser(find_browser()) as browser:
        browser.open(path.as_uri() + "#/overview")
        browser.evaluate("document.title")

Where the system has none, `make .venv/browser` runs this file: it unpacks the headless Chromium of the npm package
@sparticuz/chromium (70 MB, made for machines without a desktop, with the libraries that it needs) without npm.

Left out on purpose: a driver such as Playwright or Selenium, which would bring a second browser or a server; other
platforms than Linux on x86-64, for which that package has nothing: there the tests are skipped.
"""

import base64
import hashlib
import io
import json
import os
import platform
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
OWN = Path(__file__).parent.parent / ".venv" / "browser" / "chromium"  # what `make .venv/browser` unpacks
NONE = "no browser: $CHROMIUM, chromium, chromium-browser, google-chrome and .venv/browser are all missing"
PACKAGE = "https://registry.npmjs.org/@sparticuz/chromium/-/chromium-153.0.0.tgz"
SHA512 = "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=="
STARTER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH="$here/lib" FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/program" "$@" --headless=shell --no-zygote
"""
FONTS = """<?xml version="1.0"?>
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir>{}/fonts</dir>
  <cachedir>{}/cache</cachedir>
</fontconfig>
"""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio"]


def find_browser() -> str | None:
    """The browser's program: $CHROMIUM, what the system has, what stands in .venv/browser, or None."""
    asked = os.environ.get("CHROMIUM")
    found = [asked] if asked else [path for path in map(shutil.which, NAMES) if path]
    return next(iter(found), str(OWN) if OWN.exists() else None)


class Browser:
    """One page in one browser. `width` and `height` are CSS pixels; `dark` is what the system prefers."""

    def __init__(self, program: str, *, width: int = 1280, height: int = 900, dark: bool = False):
        self.home = tempfile.TemporaryDirectory(prefix="appo-browser-")
        here, there = os.pipe()  # what we write, the browser reads as its descriptor 3
        back, out = os.pipe()  # what it writes to its descriptor 4
        own = ["--remote-debugging-pipe", f"--user-data-dir={self.home.name}"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{here} 4>&{out}', program, *FLAGS, *own, "about:blank"],
            pass_fds=(here, out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(here)
        os.close(out)
        self.to, self.back = there, back
        self.buffer, self.count, self.events = b"", 0, []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.prefer("dark" if dark else "light")

    session: str | None = None

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.to)
        os.close(self.back)
        shutil.rmtree(self.home.name, ignore_errors=True)
        self.home._finalizer.detach()

    def call(self, method: str, **params: Any) -> dict:
        """One command of the protocol and its answer; what happens meanwhile is kept in `events`."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(60)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _read(self, seconds: float) -> dict:
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            if not select.select([self.back], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {seconds:.0f} seconds")
            chunk = os.read(self.back, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """Waits until the expression is true, and returns its value (of an element: True)."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(f"((value) => value instanceof Node || value)({expression})")):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} did not become true in {seconds:.0f} seconds")
            time.sleep(0.02)
        return value

    def open(self, address: str, until: str = "document.body?.dataset.firstView") -> None:
        """Loads an address afresh and waits for its first view."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait(until)

    def key(self, key: str, **more: Any) -> None:
        """Types a key where the focus is, as the keyboard does."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}
        common = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), **more}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str, text: str = "") -> None:
        """Clicks the middle of the first element that fits and holds the text, by the mouse."""
        every = f"[...document.querySelectorAll({json.dumps(selector)})]"
        found = f"{every}.find(e => e.textContent.includes({json.dumps(text)}))"
        self.wait(f"Boolean({found})", 10)
        box = self.evaluate(
            f"(() => {{ const e = {found}; e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getClientRects()[0] ?? e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """What the system prefers: "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: str | Path, *, whole: bool = False) -> None:
        """Writes a PNG of the window, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def requests(self) -> list[str]:
        """The addresses that the page asked for since it was opened, its own one and data among them."""
        self.evaluate("1")
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Exceptions, errors of the console and violations of the CSP since the page was opened."""
        self.evaluate("1")
        thrown = [e["params"]["exceptionDetails"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        logged = [e["params"]["entry"]["text"] for e in self.events if e["method"] == "Log.entryAdded"]
        said = [e["params"] for e in self.events if e["method"] == "Runtime.consoleAPICalled"]
        errors = [str(p["args"]) for p in said if p["type"] == "error"]
        return [d.get("exception", {}).get("description", d["text"]) for d in thrown] + logged + errors


def unpack(folder: Path) -> None:
    """Downloads the package and leaves a program `chromium` in `folder`, whole or not at all."""
    import brotli
    import httpx

    try:
        content = httpx.get(PACKAGE, follow_redirects=True, timeout=120).raise_for_status().content
    except httpx.HTTPError as error:
        raise SystemExit(f"{PACKAGE} could not be read: {error}") from None
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise SystemExit(f"{PACKAGE} is not what it was: its hash differs")
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        for member in package:
            if not member.name.startswith("package/bin/") or not member.isfile():
                continue
            data = brotli.decompress(package.extractfile(member).read())
            if member.name.endswith(".tar.br"):
                with tarfile.open(fileobj=io.BytesIO(data)) as libraries:
                    libraries.extractall(new, filter="data")
            else:
                (new / "program").write_bytes(data)
    (new / "chromium").write_text(STARTER)
    (new / "fonts.conf").write_text(FONTS.format(folder.resolve(), folder.resolve()))
    for name in ("program", "chromium"):
        (new / name).chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


if __name__ == "__main__":
    if found := find_browser():
        print(f"the tests of the report use {found}")
    elif (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print("the tests of the report will be skipped: there is no browser, and none to unpack for this machine")
    else:
        print("unpacking a headless Chromium into .venv/browser (70 MB)")
        unpack(OWN.parent)
