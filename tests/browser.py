"""A headless Chromium, spoken to over a pipe: nothing but Python's own is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-quic",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]

# Chromium reads from 3 and writes to 4.
PLACE = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""

# All text that the page shows, also inside of shadow roots, hidden parts left out.
TEXT = """
(() => {
  const seen = [];
  const visit = node => {
    if (node.nodeType === Node.TEXT_NODE) {
      if (node.textContent.trim()) seen.push(node.textContent.trim());
      return;
    }
    if (node.nodeType === Node.ELEMENT_NODE) {
      if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName)) return;
      const style = getComputedStyle(node);
      if (style.display === "none" || style.visibility === "hidden") return;
      for (const attribute of ["title", "aria-label"])
        if (node.getAttribute(attribute)) seen.push(node.getAttribute(attribute));
    }
    const inner = node.shadowRoot;
    if (inner) for (const child of inner.childNodes) visit(child);
    for (const child of node.childNodes) visit(child);
  };
  if (document.body) visit(document.body);
  return seen.join("\\n");
})()
"""

# Elements of a selector, also inside of shadow roots.
FIND = """
const find = (selector, root = document) => {
  const found = [...root.querySelectorAll(selector)];
  for (const node of root.querySelectorAll("*"))
    if (node.shadowRoot) found.push(...find(selector, node.shadowRoot));
  return found;
};
"""


def chromium():
    """Path of the browser, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a browser of its own; a context manager."""

    def __init__(self, profile, width=1600, height=1200):
        self._profile = profile
        self._size = f"--window-size={width},{height}"

    def __enter__(self):
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        os.set_blocking(self._in, False)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", PLACE, str(read), str(write), chromium()),
                *(*FLAGS, self._size, f"--user-data-dir={self._profile}"),
            ],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._buffer = b""
        self._number = 0
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        return self

    def __exit__(self, *error):
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait()

    def call(self, method, **parameters):
        """One call of the DevTools protocol: its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return reply["result"]

    def _receive(self):
        while b"\0" not in self._buffer:
            select.select([self._in], [], [])
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError(f"chromium ended: {self._process.poll()}")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url):
        """Go to a page; it may still be loading what it shows."""
        self.call("Page.navigate", url=url)

    def evaluate(self, script):
        """The value of an expression of JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def text(self):
        """What the page shows, line by line."""
        return self.evaluate(TEXT)

    def click(self, selector):
        """Click the first element that matches, also inside of shadow roots."""
        self.evaluate(f"{{{FIND} find({selector!r})[0].click();}}")

    def drawn(self, chart, part):
        """How many elements `chart` have a `part` inside, be it in a shadow root."""
        inside = f"x => find({part!r}, x.shadowRoot || x).length"
        return self.evaluate(f"{{{FIND} find({chart!r}).filter({inside}).length}}")

    def wait_for(self, condition, seconds=60):
        """Until the page shows what is wanted; the last text if it never does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = self.text() or ""
            if condition(text):
                return text
            time.sleep(0.25)
        raise AssertionError(f"not shown within {seconds} s:\n{text}")

    def screenshot(self, path):
        """What the window shows, as a PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))
