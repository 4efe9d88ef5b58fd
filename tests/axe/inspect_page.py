#!/usr/bin/env python3
"""Inspects the page in Chromium, narrow and wide, light and dark, with everything opened.

    inspect_page.py CHROMIUM AXE_SCRIPT URL              prints its problems, as JSON
    inspect_page.py CHROMIUM --screenshot FILE URL       writes a screenshot of it

The JSON is a list with an object for each view: `width`, `scheme`, `checks` (rules of axe-core that the
page passed), `violations` and `undecided` (rules that it breaks, or that axe-core could not decide, each
with the elements), and `overflow` (elements that extend beyond the window).
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile

WIDTHS = [320, 768, 1280]
SCHEMES = ["light", "dark"]
# The time limit for a response of the browser, in seconds.
PATIENCE = 120

OPEN_ALL = """
    document.getElementById("pause").click();
    for (const closed of [...document.querySelectorAll("#rows [aria-expanded=false]")]) {
      [...document.querySelectorAll("#rows button")].find((one) => one.dataset.id === closed.dataset.id).click();
    }
    document.querySelectorAll("#rows [aria-expanded=true]").length
"""

OVERFLOW = """
    const wide = document.documentElement.scrollWidth > window.innerWidth ? ["the page itself"] : [];
    const reaches = [...document.querySelectorAll("body *")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width > 0 && box.right > window.innerWidth + 0.5 && !element.closest(".hidden, thead");
    });
    wide.concat(reaches.map((element) => element.outerHTML.slice(0, 120)))
"""
# In a narrow window, the headings of the table are clipped, and only for screen readers.

AXE = """
    axe.run({resultTypes: ["violations", "incomplete", "passes"]}).then((found) => {
      const named = (rules) => rules.map((rule) => ({
        rule: rule.id, help: rule.help,
        elements: rule.nodes.map((node) => node.html.slice(0, 200) + " " + node.failureSummary),
      }));
      return {
        checks: found.passes.length, violations: named(found.violations), undecided: named(found.incomplete),
      };
    })
"""


class Browser:
    """Chromium, driven by the DevTools protocol over a pair of pipes."""

    def __init__(self, chromium, profile):
        here_in, there_out = os.pipe()
        there_in, here_out = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4, so other uses of these numbers must be moved first.
        low = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (there_in, there_out)]

        def place():
            os.dup2(low[0], 3)
            os.dup2(low[1], 4)

        self.process = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            close_fds=False, preexec_fn=place, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (there_in, there_out, *low):
            os.close(end)
        self.output = os.fdopen(here_out, "wb", buffering=0)
        self.input = os.fdopen(here_in, "rb")
        self.buffer, self.last, self.session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        # The page's policy only allows its own script, and axe-core is another one.
        self.call("Page.setBypassCSP", enabled=True)

    def message(self):
        """The next message."""
        while b"\0" not in self.buffer:
            more = os.read(self.input.fileno(), 65536)
            if not more:
                sys.exit("inspect_page.py: the browser has ended")
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        """The result of a command."""
        self.last += 1
        command = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        self.output.write(json.dumps(command).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.last:
                if "error" in message:
                    sys.exit(f"inspect_page.py: {method}: {message['error']}")
                return message["result"]

    def evaluate(self, script):
        """The value of a script in the page."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
                           timeout=PATIENCE * 1000)
        if "exceptionDetails" in result:
            sys.exit(f"inspect_page.py: {result['exceptionDetails']}")
        return result["result"].get("value")

    def show(self, url, width, height, scheme):
        """Loads the page, in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        # The page's script has run once the page is complete.
        while self.evaluate("document.readyState") != "complete":
            pass

    def close(self):
        """Ends it."""
        self.call("Browser.close")
        self.process.wait(PATIENCE)


def inspect(browser, axe, url):
    """The problems of the page, in each view."""
    views = []
    for width in WIDTHS:
        for scheme in SCHEMES:
            browser.show(url, width, 800, scheme)
            opened = browser.evaluate(OPEN_ALL)
            browser.evaluate(axe)
            found = browser.evaluate(AXE)
            overflow = browser.evaluate(OVERFLOW)
            views.append({"width": width, "scheme": scheme, "opened": opened, **found, "overflow": overflow})
    return views


def main(arguments):
    if len(arguments) < 3:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(arguments[0], profile)
        if arguments[1] == "--screenshot":
            import base64
            browser.show(arguments[3], 1100, 820, "light")
            picture = browser.call("Page.captureScreenshot", format="png")
            with open(arguments[2], "wb") as file:
                file.write(base64.b64decode(picture["data"]))
        else:
            with open(arguments[1], encoding="utf-8") as file:
                axe = file.read()
            json.dump(inspect(browser, axe, arguments[2]), sys.stdout)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
